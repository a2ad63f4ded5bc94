"""Files that may be damaged, or may come from anybody: read within a budget of memory, and never with a traceback."""
