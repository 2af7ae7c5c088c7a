"""Pictures with captions in tar shards (CC3M, CC12M, YFCC14M, RedCaps12M): a twin."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from data_pipelines.prepare.images import encode
from data_pipelines.prepare.scenes import draw_captioned
from ovseg_jax.files import atomic_write


def twin(output: Path, count: int) -> str:
    """Writes `count` drawn samples to two shards as img2dataset does; to each, one that failed."""
    for shard, part in enumerate((range(count // 2), range(count // 2, count))):
        members = []
        for number, index in enumerate(part):
            members += _sample(f"{shard:05d}{number:04d}", index, fetched=True)
        members += _sample(f"{shard:05d}{len(part):04d}", 0, fetched=False)
        atomic_write(output / f"{shard:05d}.tar", pack(members))
    return f"{count} samples in 2 shards in {output}, and 2 that were not fetched"


def _sample(key: str, index: int, fetched: bool) -> Iterable[tuple[str, bytes]]:
    """Names and contents of the members of a sample."""
    image, caption = draw_captioned(index)
    notes = dict(
        caption=caption,
        url=f"https://example.com/{index}.jpg",
        key=key,
        status="success" if fetched else "failed_to_download",
        error_message=None if fetched else "HTTP Error 404: Not Found",
        width=image.shape[1] if fetched else None,
        height=image.shape[0] if fetched else None,
    )
    if fetched:
        yield f"{key}.jpg", encode(image, ".jpg")
    yield f"{key}.json", json.dumps(notes).encode()
    yield f"{key}.txt", caption.encode()


def pack(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A tar file of members, each a name and its content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return buffer.getvalue()
