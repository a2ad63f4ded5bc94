"""Recordings in time: from labels of pieces to segments, their files for other tools, and their pages."""
