"""Objects by a glob: `s3://BUCKET/log/*.parquet`."""

import re
from typing import Any

from corank.core.errors import MissingObjectError
from corank.core.extras import require
from corank.core.storage.object_folder import ObjectFolder, StoredObject
from corank.core.storage.object_url import ObjectUrl


def find_objects(url: ObjectUrl) -> list[tuple[ObjectUrl, StoredObject]]:
    """Find the objects of a URL, whose key may be a glob: `*` and `[…]` within a segment, `**` across segments.

    Returns them by key, ascending. Raises StorageError; MissingObjectError if there is none.

    Example:
        find_objects(ObjectUrl.parse("s3://shop/log/*.parquet"))
    """
    fixed = _fixed_part(url.key)
    if fixed == url.key:
        return [(url, _describe(url))]
    folder = ObjectFolder(ObjectUrl(url.scheme, url.bucket, fixed))
    begin = f"{fixed}/" if fixed else ""
    translate: Any = require("objects", "fsspec.utils", f"{url}: a glob").glob_translate
    pattern = re.compile(translate(url.key.removeprefix(begin)))
    objects = [
        (ObjectUrl(url.scheme, url.bucket, begin + entry.name), entry)
        for entry in folder.list()
        if pattern.fullmatch(entry.name)
    ]
    if not objects:
        raise MissingObjectError(f"{url}: no such object; check the URL")
    return sorted(objects, key=lambda pair: pair[0].key)


def _fixed_part(key: str) -> str:
    """The leading segments of a key that hold no `*` and no `[`."""
    segments = key.split("/")
    first = next((n for n, segment in enumerate(segments) if "*" in segment or "[" in segment), len(segments))
    return "/".join(segments[:first])


def _describe(url: ObjectUrl) -> StoredObject:
    """Return size and etag of an object. Raises MissingObjectError, which says whether it is a folder."""
    folder, name = url.split()
    try:
        return ObjectFolder(folder).describe(name)
    except MissingObjectError:
        if next(ObjectFolder(url).list(), None) is not None:
            raise MissingObjectError(f"{url}: is a folder; write {url}/*.parquet") from None
        raise
