"""Which files are looked at: by their suffixes, in small letters."""

from collections.abc import Set

from selavi.media import STILL_SUFFIXES

FILM_SUFFIXES = {
    *(".mp4", ".m4v", ".mov", ".m4a", ".3gp", ".3g2", ".f4v"),
    *(".mkv", ".webm", ".avi", ".divx", ".flv", ".wmv", ".asf", ".ogv", ".ogm", ".gif"),
    *(".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".vob"),
}
PICTURE_SUFFIXES = STILL_SUFFIXES | {".gif"}
"""Suffixes of still pictures; a GIF is a recording or, where pictures are looked for, its first picture."""
SOUND_SUFFIXES = {".wav", ".mp3", ".flac", ".m4a", ".aac", ".ogg", ".oga", ".opus", ".mka"}
"""Suffixes of files with sound alone, clips without a picture."""
MEDIA_SUFFIXES = FILM_SUFFIXES | SOUND_SUFFIXES


def suffixes_of(pictures: bool) -> Set[str]:
    """Suffixes of the files that are looked for: still pictures, or recordings."""
    return PICTURE_SUFFIXES if pictures else MEDIA_SUFFIXES
