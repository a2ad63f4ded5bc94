"""The labelling methods by name.

A further one is a file here with its entry in this mapping, and its traits in selavi/config/methods.py.
"""

from selavi.labelling.methods import cliques, given, kmeans, none, transport
from selavi.labelling.methods.interface import Method

METHODS: dict[str, Method] = {
    "transport": transport.METHOD,
    "kmeans": kmeans.METHOD,
    "cliques": cliques.METHOD,
    "given": given.METHOD,
    "none": none.METHOD,
}
