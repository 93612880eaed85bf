"""What an operating system refuses for reasons that are not in the file, and what to do then."""

from __future__ import annotations

import errno
import re
from typing import Final

ADVICE: Final = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
        "Free space or correct permissions there, then run again",
    ),
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
        "Something else is in the way there: move it, or name another place",
    ),
    **dict.fromkeys(
        (errno.ENAMETOOLONG, errno.ELOOP),
        "Correct that name or link, or name another place",
    ),
    **dict.fromkeys(
        (errno.EIO, errno.ESTALE),
        "The file system there has failed: run again, or ask those who run it",
    ),
    **dict.fromkeys(
        (errno.EAGAIN, errno.EBUSY, errno.ETXTBSY),
        "Another program has it open: let it end, then run again",
    ),
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE),
        "Too many files are open: raise the limit (ulimit -n), or use fewer jobs",
    ),
    errno.ENOENT: "It is not there, or not any more: look where it went, or run what writes it",
    errno.ENOMEM: "Memory is short: use fewer jobs, or another machine",
}
"""What users can do, by the number of the error."""

_OF_THE_PLACE: Final = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


def advice_of(error: BaseException) -> str | None:
    """What to do about an error of the system; None if the error is of another kind."""
    return ADVICE.get(error.errno or 0) if isinstance(error, OSError) else None


def words_of(error: BaseException) -> str | None:
    """What to tell a user of an error in one line; None if it is a fault of the code."""
    if isinstance(error, UnicodeEncodeError):
        return _words_of_letters(error)
    if isinstance(error, ValueError):
        return str(error)
    if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
        # For links that lead to themselves `Path.resolve` has an error of its own.
        is_loop = error.__context__.errno == errno.ELOOP
        return words_of(error.__context__) if is_loop else None
    advice = advice_of(error)
    if advice is None or not isinstance(error, OSError):
        return None
    # A file that is renamed has a name that nobody gave; the place it goes to is what is meant.
    is_gone = error.errno == errno.ENOENT or error.filename2 is None
    place = error.filename if is_gone else error.filename2
    where = "" if place is None else f"{place}: "
    return f"{where}{error.strerror}. {advice}"


def _words_of_letters(error: UnicodeEncodeError) -> str:
    """What to say of a name that the system gave in other bytes than its encoding has."""
    before, after = error.object[: error.start], error.object[error.start :]
    name = re.split(r'[\s"/]', before)[-1] + re.split(r'[\s"/]', after)[0]
    return (
        f"{name!a} has letters that are not in {error.encoding}: rename the file or write the "
        "text in UTF-8, and where the locale is of another encoding, set LC_ALL=C.UTF-8"
    )


def is_of_the_system(error: BaseException) -> bool:
    """Whether a file that is there may be sound, and the system does not let it be read."""
    of_the_place = isinstance(error, OSError) and error.errno in _OF_THE_PLACE
    return advice_of(error) is not None and not of_the_place
