"""Download of one file that resumes where the last attempt stopped; torchvision's own starts over each time."""

import time
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from torchvision.datasets.utils import check_md5
from tqdm import tqdm

from adaloss_lightning.tracking import TrackingError

_CHUNK = 1 << 18  # bytes
_TIMEOUT_S = 30.0


class DownloadError(TrackingError, OSError):
    """A file could not be fetched, or is not the file it should be."""


def download(url: str, file: Path, md5: str, attempts: int = 5, pause_s: float = 1.0) -> None:
    """Fetches `url` to `file`, with a progress bar, and checks it.

    `<file>.part` keeps what has arrived. After a broken connection this call, or a later one, asks for the rest with an
    HTTP range request; a server that ignores the range starts over. `file` appears only once it is whole and right, and
    stays as it is where it is already. A truncated or other file in its place is replaced by the right one.

    Args:
        url: Where the file is.
        file: Where it goes.
        md5: Checksum of the whole file, hexadecimal.
        attempts: Tries in a row that may get no further.
        pause_s: Seconds before the second try, twice as many before each next one.

    Raises:
        DownloadError: No attempt got further, the server refused, the checksum is another one, or a file is where the
            folder must be.
    """
    if file.is_file() and check_md5(file, md5):
        return
    require_folder(file.parent)
    part = file.with_name(file.name + ".part")
    failures, furthest = 0, _size(part)
    while True:
        try:
            _fetch_rest(url, part)
            break
        except (OSError, HTTPException) as error:
            if isinstance(error, HTTPError) and error.code < HTTPStatus.INTERNAL_SERVER_ERROR:
                raise DownloadError(f"Cannot download {url}: {error}. {_by_hand(file, md5)}") from error
            failures = 1 if _size(part) > furthest else failures + 1
            furthest = max(furthest, _size(part))
            if failures >= attempts:
                raise DownloadError(
                    f"Cannot download {url}: {error}. {_size(part)} bytes are kept in {part}; the same command resumes "
                    f"there. {_by_hand(file, md5)}"
                ) from error
            time.sleep(pause_s * 2 ** (failures - 1))
    if not check_md5(part, md5):
        part.unlink()
        raise DownloadError(f"Invalid md5 of {url}. Must be {md5}. The file was removed; try again.")
    part.replace(file)


def require_folder(folder: Path) -> None:
    """Makes the folder where there is none.

    Raises:
        DownloadError: It cannot be made, such as where there is a file of that name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(f"Invalid folder {folder}: {error.strerror}. Give another one with --data.root.") from error


def _by_hand(file: Path, md5: str) -> str:
    """What the user can do instead of a download."""
    if file.is_file():  # its checksum has been found wrong
        return f"{file} is there with {_size(file)} bytes, but is not whole: replace it by the file whose md5 is {md5}."
    return f"Or put the file at {file} by other means."


def _fetch_rest(url: str, part: Path) -> None:
    have = _size(part)
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(request, timeout=_TIMEOUT_S)
    except HTTPError as error:
        if have and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is left to fetch; the checksum decides whether it is the right file
        raise
    with response:
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            have = 0
        total = have + response.length if response.length is not None else None
        with (
            part.open("ab" if have else "wb") as out,
            tqdm(total=total, initial=have, desc=part.stem, unit="B", unit_scale=True, unit_divisor=1024) as bar,
        ):
            while chunk := response.read(_CHUNK):
                out.write(chunk)
                bar.update(len(chunk))
    # http.client reports a body that ends early only where it is read in one piece.
    if total is not None and _size(part) < total:
        raise DownloadError(f"the connection broke after {_size(part)} of {total} bytes")


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
