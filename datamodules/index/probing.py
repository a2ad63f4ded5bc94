"""What a scan's worker does with one file.  Imports selavi.media alone, so that workers start soon and stay small."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from selavi.filesystem import look
from selavi.media import MediaError, probe, probe_picture


def probe_file(root: str, file: tuple[str, int, int], pictures: bool = False) -> dict[str, Any]:
    """Probe one file of a listing: a recording, which may be sound alone, or a still picture.

    Args:
        root: folder that the path starts from.
        file: (path, bytes, mtime_ns) as listed.
        pictures: it is meant as a still picture.

    Returns:
        Columns of the manifest: facts and status `ok`, or status and reason.
    """
    path, size, mtime_ns = file
    try:
        place = Path(root) / path
        facts = asdict(probe_picture(place) if pictures else probe(place, needs_picture=False))
    except MediaError as error:
        return {"status": error.reason, "reason": error.detail}
    except MemoryError:
        raise
    except Exception as error:  # whatever a hostile file makes of a library: one bad file, not the end of a scan
        return {"status": "corrupt", "reason": f"{type(error).__name__}: {error}"}
    now = look(Path(root) / path)
    if now.status:
        return {"status": now.status, "reason": now.reason}
    if (now.bytes, now.mtime_ns) != (size, mtime_ns):
        return {"status": "changed", "reason": "it was being written while it was probed: scan again"}
    return {**facts, "status": "ok", "reason": None}
