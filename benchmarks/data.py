"""Speed of the input pipeline: the training chain of the VOC recipes on pictures of 375 x 500.

  python benchmarks/data.py
  python benchmarks/data.py --pictures 200 --workers 1 2 4

Three rates per second of CPU time, in one thread of one process: decoding alone, the recipe's
steps, and the same chain written plainly with OpenCV and NumPy calls, as one would write it down
first. Then pictures per second of the loader by number of threads, and by number of processes.
The pictures are drawn scenes as JPEG files with palette labels, in VOC's layout.
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs without being installed

import cv2
import numpy as np
from PIL import Image

from configs import common
from data_pipelines.loader import Loader
from data_pipelines.prepare.images import encode, palette_png
from data_pipelines.sources.shapes import ShapesSource
from data_pipelines.sources.voc import VOCSource
from data_pipelines.transforms import create_transforms

SIZE = (375, 500)
MEAN, STD = common.IMAGENET_MEAN, common.IMAGENET_STD


def write_pictures(folder: Path, count: int) -> None:
    """A small VOC."""
    scenes = ShapesSource(split="validation", canvas=max(SIZE), size=count)
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    names = [f"{k:06d}" for k in range(count)]
    for k, name in enumerate(names):
        image, label = (scenes[k][key][: SIZE[0], : SIZE[1]] for key in ("image", "label"))
        (folder / "JPEGImages" / f"{name}.jpg").write_bytes(encode(image, ".jpg"))
        stored = (label.astype(int) % 20 + 1).astype(np.uint8)
        (folder / "SegmentationClass" / f"{name}.png").write_bytes(palette_png(stored))
    (folder / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(names))


def plain_example(folder: Path, name: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Reads and augments one picture, written down step by step."""
    image = cv2.imread(str(folder / "JPEGImages" / f"{name}.jpg"))
    label = np.array(Image.open(folder / "SegmentationClass" / f"{name}.png"))
    label = np.where(label == 0, 255, np.where(label == 255, 255, label - 1)).astype(np.uint8)
    ratio = rng.uniform(0.5, 2.0)
    factor = min(2048 * ratio / max(label.shape), 512 * ratio / min(label.shape))
    size = (int(label.shape[1] * factor + 0.5), int(label.shape[0] * factor + 0.5))
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
    for _ in range(10):
        top = rng.integers(max(label.shape[0] - 512, 0) + 1)
        left = rng.integers(max(label.shape[1] - 512, 0) + 1)
        crop = label[top : top + 512, left : left + 512]
        values, counts = np.unique(crop[crop != 255], return_counts=True)
        if len(values) > 1 and counts.max() / counts.sum() < 0.75:
            break
    image, label = image[top : top + 512, left : left + 512], crop
    if rng.random() < 0.5:
        image, label = image[:, ::-1], label[:, ::-1]
    image = _plain_distortion(np.ascontiguousarray(image), rng)
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.float32)
    image = (image - np.float32(MEAN)) / np.float32(STD)
    missing = (512 - label.shape[0], 512 - label.shape[1])
    image = cv2.copyMakeBorder(image, 0, missing[0], 0, missing[1], cv2.BORDER_CONSTANT, value=0)
    label = np.pad(label, ((0, missing[0]), (0, missing[1])), constant_values=255)
    return {"image": image, "label": label.astype(np.int32)}


def _plain_distortion(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    def scaled(pixels, factor=1.0, offset=0.0):
        return np.clip(pixels.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)

    if rng.integers(2):
        image = scaled(image, offset=rng.uniform(-32, 32))
    first = rng.integers(2)
    if first and rng.integers(2):
        image = scaled(image, factor=rng.uniform(0.5, 1.5))
    if rng.integers(2):
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hsv[..., 1] = scaled(hsv[..., 1], factor=rng.uniform(0.5, 1.5))
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if rng.integers(2):
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + rng.integers(-18, 18)) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if not first and rng.integers(2):
        image = scaled(image, factor=rng.uniform(0.5, 1.5))
    return image


def recipe_loader(folder: Path, workers: int, shard: tuple[int, int] = (0, 1)) -> Loader:
    """The loader of the recipe; batches of 8 for each host."""
    return Loader(
        VOCSource(str(folder), "train"),
        create_transforms(common.mmseg_transforms()),
        batch_size=8 * shard[1],
        workers=workers,
        shard=shard,
        driver="threads",
    )


def per_cpu_second(call: Callable[[int], object], count: int) -> float:
    """How often `call` runs in a second of CPU time; after a warm-up."""
    for k in range(8):
        call(k)
    start = time.process_time()
    for k in range(count):
        call(k)
    return count / (time.process_time() - start)


def loader_rate(folder: Path, workers: int, batches: int, shard: tuple[int, int] = (0, 1)) -> float:
    """Pictures per second of one process's share, batches put together."""
    stream = recipe_loader(folder, workers, shard).batches()
    for _ in range(2):
        next(stream)
    start = time.perf_counter()
    share = sum(len(batch["label"]) for batch in itertools.islice(stream, batches))
    rate = share / (time.perf_counter() - start)
    stream.close()
    return rate


def main() -> None:
    """Prints two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=64, help="drawn (default: %(default)s)")
    parser.add_argument("--examples", type=int, default=300, help="timed (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="to compare")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_pictures(folder, options.pictures)
        loader, names = recipe_loader(folder, 1), [f"{k:06d}" for k in range(options.pictures)]
        rng = np.random.default_rng(0)
        rates = {
            "decoding alone": lambda k: loader.source[k % len(names)],
            "the chain, plainly": lambda k: plain_example(folder, names[k % len(names)], rng),
            "the recipe": lambda k: loader.load(k // len(names), k % len(names)),
        }
        rates = {name: per_cpu_second(call, options.examples) for name, call in rates.items()}
        plain = rates["the chain, plainly"]
        print("| | pictures per CPU second | against the plain chain |\n|---|---|---|")
        for name, rate in rates.items():
            print(f"| {name} | {rate:.0f} | {rate / plain:.2f} |")
        print("\n| | pictures per second | against one |\n|---|---|---|")
        batches = max(options.examples // 8, 1)
        one = None
        for workers in options.workers:
            rate = loader_rate(folder, workers, batches)
            one = one or rate
            print(f"| {workers} thread(s) | {rate:.0f} | {rate / one:.2f} |")
        for count in options.workers:
            with ProcessPoolExecutor(count, get_context("spawn")) as pool:
                shards = [(host, count) for host in range(count)]
                jobs = [pool.submit(loader_rate, folder, 1, batches, shard) for shard in shards]
                rate = sum(job.result() for job in jobs)
            print(f"| {count} process(es) | {rate:.0f} | {rate / one:.2f} |")


if __name__ == "__main__":
    main()
