"""The map: every clip a point, near to those with similar features.  Axes: N clips, P points, D features."""

from typing import Any, Literal, get_args

import numpy as np

from selavi.errors import UsageError
from selavi.results.gallery.select import HeadClusters, even_sample

Method = Literal["pca", "umap", "tsne", "none"]
METHODS: tuple[str, ...] = get_args(Method)
MAX_POINTS = 50_000
_FEWEST = 3
_REDUCED = 50
"""Dimensions that t-SNE and UMAP begin with."""


def require_method(method: str) -> None:
    """Raise UsageError where a map is asked for that this installation cannot draw."""
    if method == "umap":
        _umap()


def points_of(head: HeadClusters, most: int = MAX_POINTS) -> np.ndarray:
    """Choose the clips to draw: of each cluster its share, at even distances from the surest to the least sure.

    Returns:
        (P,) clips, ascending.
    """
    ranks = even_sample([cluster.size for cluster in head.clusters], most)
    chosen = [head.clips(cluster)[ranks[place]] for place, cluster in enumerate(head.clusters)]
    return np.sort(np.concatenate(chosen))[:most]


def place_points(features: np.ndarray, method: Method, seed: int) -> tuple[np.ndarray, dict[str, Any]] | None:
    """Place points on a map; clips with equal features are one point to the method, and lie on each other.

    Args:
        features: (P, D).  Memory: a copy in float32, and the method's own.
        method: pca, tsne (scikit-learn) or umap (umap-learn).
        seed: of the run: equal input gives equal maps on one machine.

    Returns:
        (P, 2) uint16 positions with the aspect kept, and `method` and `explained` (shares of variance, by PCA) in
        words for the page; None where fewer than three clips differ.

    Raises:
        UsageError: umap-learn is not installed.
    """
    values = np.ascontiguousarray(features, np.float32)
    distinct, place = _distinct(values)
    if len(distinct) < _FEWEST:
        return None
    values = values[distinct]
    explained: list[float] = []
    if method == "pca":
        coordinates, explained = _reduce(values, 2, seed)
        name = "PCA"
    else:
        start, _ = _reduce(values, _REDUCED, seed)
        coordinates = _tsne(start, seed) if method == "tsne" else _umap_of(start, seed)
        name = "t-SNE" if method == "tsne" else "UMAP"
    low = coordinates.min(0)
    span = coordinates.max(0) - low
    largest = float(span.max()) or 1.0
    centred = (coordinates - low + (largest - span) / 2) / largest
    positions = np.rint(centred * 65_535).astype(np.uint16)
    return positions[place], {"method": name, "explained": explained}


def _distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First of each kind of equal rows, and for each row the place of its kind."""
    rows = values.view(np.dtype((np.void, values.dtype.itemsize * values.shape[1]))).ravel()
    _, first, place = np.unique(rows, return_index=True, return_inverse=True)
    return first, place


def _reduce(values: np.ndarray, dimensions: int, seed: int) -> tuple[np.ndarray, list[float]]:
    from sklearn.decomposition import PCA

    dimensions = min(dimensions, *values.shape)
    solver = PCA(dimensions, svd_solver="randomized", random_state=seed % 2**32)
    coordinates = solver.fit_transform(values)
    explained = [round(float(share), 3) for share in np.nan_to_num(solver.explained_variance_ratio_)]
    if coordinates.shape[1] < 2:  # one feature: a line
        coordinates, explained = np.pad(coordinates, ((0, 0), (0, 1))), [*explained, 0.0]
    return coordinates, explained


def _tsne(values: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(values) - 1) / 3)
    return TSNE(init="pca", perplexity=perplexity, random_state=seed % 2**32).fit_transform(values)


def _umap_of(values: np.ndarray, seed: int) -> np.ndarray:
    neighbours = min(15, len(values) - 1)
    # A fixed seed needs one thread; `random` starts where the spectral start fails: with hardly any points.
    start = "spectral" if len(values) > 10 * neighbours else "random"
    return _umap().UMAP(n_neighbors=neighbours, init=start, random_state=seed % 2**32, n_jobs=1).fit_transform(values)


def _umap() -> Any:
    try:
        import umap
    except ImportError as error:
        raise UsageError(
            "--map umap needs umap-learn, which is not installed: pip install 'selavi[map]', or say --map tsne"
        ) from error
    return umap
