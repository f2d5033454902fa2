"""Write the packed format: decode images in parts, each finished for good, so that a killed packing goes on where it was.

All images are decoded before training starts, so that errors show at once and not hours later.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from ..files import StorageError, UnreadableError, continued_folder, read_json, remove_leftovers, replace_text, storing, synced
from ..messages import counted
from ..progress import progress as show_progress
from ..progress import silent
from ..tensors import seal
from .decode import decode_all
from .errors import DataError, first_of, printable
from .listing import Listing
from .packed import VERSION, read_packed

PART_IMAGES, PART_BYTES, PARTS = 2**14, 2**28, 256  # images and bytes of a part, whichever is more; at most so many parts, for open files


def pack(listing: Listing, size: int, out: Path, progress: bool, skip_unreadable: bool, elsewhere: str, processes: int = 1) -> None:
    """Decode images into the folder `out`, complete or not at all. What a killed packing has finished is not decoded again.

    A DataError if the disk is full, a file cannot be read (without `skip_unreadable`), or a class has no readable image.

    Parameters
    ----------
    elsewhere
        The fix for a full disk: how to pack to another one.
    processes
        Processes that decode, each with a share of the cores; more than one are started by `spawn`.
    """
    try:
        waiting = f"waiting for the process that packs {listing.name}" if progress else ""
        with storing(out), continued_folder(out, identity(listing, size), waiting) as folder:
            if folder:
                _Packing(listing, size, folder).run(out, progress, skip_unreadable, elsewhere, processes)
    except StorageError as error:
        raise DataError(f"{error}, or {elsewhere}") from None


def identity(listing: Listing, size: int) -> str:
    """A name for what packing a listing makes."""
    return hashlib.sha256(json.dumps([VERSION, size, listing.identity]).encode()).hexdigest()[:20]


class _Packing:
    """Images that are being packed into a folder, part by part.

    A finished part has its images in `images-000.npy` (`images.npy` if it is the only one) and, until the end, a record beside them,
    `images-000.json`: for each file its SHA-256, or why it cannot be read.
    """

    def __init__(self, listing: Listing, size: int, folder: Path):
        self.listing, self.size, self.folder = listing, size, folder
        count = len(listing.paths)
        length = max(PART_IMAGES, PART_BYTES // (3 * size * size), -(-count // PARTS))
        self.parts = [slice(start, min(start + length, count)) for start in range(0, count, length)]
        self.images = [folder / (f"images-{k:03d}.npy" if len(self.parts) > 1 else "images.npy") for k in range(len(self.parts))]

    def run(self, out: Path, progress: bool, skip_unreadable: bool, elsewhere: str, processes: int) -> None:
        count = len(self.listing.paths)
        remove_leftovers(self.folder)
        if self._sealed(skip_unreadable):
            self._remove_records()
            return
        left = [k for k in range(len(self.parts)) if not self._finished(k)]
        todo = sum(self.parts[k].stop - self.parts[k].start for k in left)
        required, available = todo * self.size**2 * 3, shutil.disk_usage(out.parent).free
        about = f"{self.listing.name} at {self.size}x{self.size}"
        if required > available:
            raise DataError(
                f"{about} needs {required / 1e9:.2f} GB in {out.parent}, where {available / 1e9:.2f} GB are available",
                "make room",
                elsewhere,
            )
        if progress:
            rest = f", of which {count - todo:,} are there already" if todo < count else ""
            print(f"packing {counted(count, 'image')} of {about} into {printable(str(out))}{rest}", file=sys.stderr)
        try:
            with (show_progress if progress else silent)(todo, f"images of {self.listing.name} decoded") as advance:
                self._decode(left, advance, min(processes, len(left)))
            self._complete(skip_unreadable)
        except BaseException:
            finished = [k for k in range(len(self.parts)) if self._record(k).exists()] if len(self.parts) > 1 else []
            keep = {path for k in finished for path in (self.images[k], self._record(k))}
            for path in set(self.folder.iterdir()) - keep:
                path.unlink(missing_ok=True)
            if not keep:
                self.folder.rmdir()
            raise

    def _record(self, k: int) -> Path:
        return self.images[k].with_suffix(".json")

    def _remove_records(self) -> None:
        for k in range(len(self.parts)):
            self._record(k).unlink(missing_ok=True)

    def _sealed(self, skip_unreadable: bool) -> bool:
        """Whether an earlier packing was complete, and was killed before its folder got its name. It may have no records any more."""
        try:
            return not read_packed(self.folder).skipped or skip_unreadable
        except UnreadableError:
            return False

    def _finished(self, k: int) -> bool:
        """Whether a part was finished by an earlier packing, and none of the files that it could not read can be read now."""
        try:
            files = read_json(self._record(k))["files"]
        except (OSError, UnreadableError, KeyError):
            return False
        start = self.parts[k].start
        unreadable = chain.from_iterable(self.listing.items[start + i : start + i + 1] for i, (sha256, _) in enumerate(files) if not sha256)
        return all(image.pixels is None for image in decode_all(list(unreadable), self.size))

    def _decode(self, left: Sequence[int], advance: Callable[[int], None], processes: int) -> None:
        if processes <= 1:
            for k in left:
                _write_part(self.listing.items[self.parts[k]], self.size, self.images[k], advance)
            return
        threads = -(-(os.cpu_count() or 1) // processes)
        alive, ending = multiprocessing.Pipe(duplex=False)
        pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _end_with_parent, (alive,))
        try:
            futures = {
                pool.submit(_write_part, self.listing.items[self.parts[k]], self.size, self.images[k], threads=threads): k for k in left
            }
            for future in as_completed(futures):
                future.result()
                advance(self.parts[futures[future]].stop - self.parts[futures[future]].start)
        except BrokenProcessPool:
            raise DataError(
                "a process that decoded ended, perhaps killed for lack of memory",
                "start it again, which goes on, perhaps with fewer processes",
            ) from None
        except BaseException:
            ending.close()  # the parts that are being written, minutes of work, are not waited for
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            ending.close()
            alive.close()

    def _files(self) -> Iterator[tuple[str, int, str, str]]:
        """Path, label, SHA-256 and error of every file."""
        for k, part in enumerate(self.parts):
            files = read_json(self._record(k))["files"]
            for path, label, (sha256, error) in zip(self.listing.paths[part], self.listing.labels[part], files, strict=True):
                yield path, label, sha256, error

    def _complete(self, skip_unreadable: bool) -> None:
        """Write labels, names and checksums beside the images, and remove the records."""
        listing = self.listing
        content = hashlib.sha256(json.dumps([listing.classes, self.size]).encode())
        labels: list[int] = []
        skipped: dict[str, str] = {}
        for path, label, sha256, error in self._files():
            if sha256:
                labels.append(int(label))
                content.update(json.dumps([path, sha256]).encode())
            else:
                skipped[path] = error
        present = set(labels)
        lost = [name for index, name in enumerate(listing.classes) if index not in present]
        if lost or (skipped and not skip_unreadable):
            raise unreadable_files(listing, skipped, lost)
        with synced(self.folder / "labels.npy") as file:
            np.save(file, np.array(labels, dtype=np.int64))
        meta = dict(
            version=VERSION, name=listing.name, classes=listing.classes, size=self.size, fingerprint=content.hexdigest(),
            conditional=listing.conditional, skipped=skipped, ignored=listing.ignored,
        )  # fmt: skip
        with synced(self.folder / "meta.json") as file:
            file.write(json.dumps(meta).encode())
        seal(
            self.folder, without=[self._record(k) for k in range(len(self.parts))]
        )  # reads all images again: only then they need no records
        self._remove_records()


def _write_part(
    items: Sequence, size: int, path: Path, advance: Callable[[int], None] = lambda count: None, threads: int | None = None
) -> None:
    """Decode a part into the file `path`, then write its record beside it."""
    record = path.with_suffix(".json")
    record.unlink(missing_ok=True)  # of an earlier packing, for which a file could not be read
    files = []
    header = {"descr": "|u1", "fortran_order": False}
    with synced(path) as file, closing(decode_all(items, size, threads)) as decoded:
        np.lib.format.write_array_header_1_0(file, header | {"shape": (len(items), size, size, 3)})
        for image in decoded:
            advance(1)
            if image.pixels is not None:
                file.write(image.pixels.data)  # not through a memory map, where a full disk would kill the process
            files.append((image.sha256, image.error))
        file.seek(0)  # the header has room for any number, so its length stays
        np.lib.format.write_array_header_1_0(file, header | {"shape": (sum(bool(sha256) for sha256, _ in files), size, size, 3)})
    replace_text(record, json.dumps(dict(files=files)))


def _end_with_parent(alive: Connection) -> None:
    """End this process when its parent closes the other end of a pipe, or ends in any way: another packing may go on with the same folder."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt of the terminal reaches the parent, too
    threading.Thread(target=lambda: (alive.poll(None), os._exit(1)), daemon=True).start()


def unreadable_files(listing: Listing, skipped: dict[str, str], lost: Sequence[str] = ()) -> DataError:
    """The error that files cannot be read; `lost` are classes without any readable image."""
    files = first_of([f"{path} ({error})" for path, error in skipped.items()])
    classes = f" (no image is left of {first_of(lost)})" if lost else ""
    fixes = ["fix or delete them"] if lost else ["fix or delete them", ("skip_unreadable", "=True to leave them out")]
    return DataError(f"{len(skipped)} of {len(listing.paths)} files in {listing.root} cannot be read{classes}, {files}", *fixes)
