"""Ask the endpoint `filetype` what kind of files these are: python deploy/examples/filetype.py README.md Makefile

An application like any other: it knows the endpoint's name and address, nothing of deployments or versions.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import tritonclient.http as triton

REPEATS_PER_SECOND = 30  # what both versions answer easily, beside each other, on two cores
BLOCK_BYTES, PART_BYTES, PADDING = 4096, 1024, 256  # magika's config.min.json


def features(content: bytes) -> np.ndarray:
    """magika's input: the first and the last 1024 bytes without outer white space, padded; int32 [1, 2048]."""
    begin = content[:BLOCK_BYTES].lstrip()[:PART_BYTES]
    end = content[-BLOCK_BYTES:].rstrip()[-PART_BYTES:]
    row = [*begin, *[PADDING] * (PART_BYTES - len(begin)), *[PADDING] * (PART_BYTES - len(end)), *end]
    return np.array([row], dtype=np.int32)


def labels() -> list[str]:
    package = importlib.util.find_spec("magika")
    if package is None or not package.submodule_search_locations:
        sys.exit("the package magika is not installed; run: make setup")
    config = Path(package.submodule_search_locations[0], "models", "standard_v3_3", "config.min.json")
    names: list[str] = json.loads(config.read_text())["target_labels_space"]
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask the endpoint `filetype` what kind of files these are.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--address", default="127.0.0.1:8000", help="scoring address (default: %(default)s)")
    parser.add_argument("--repeat", action="store_true", help="ask again and again, and tell who answers")
    options = parser.parse_args()
    names = labels()
    client = triton.InferenceServerClient(options.address)
    if options.repeat:
        with contextlib.suppress(KeyboardInterrupt):
            ask_for_ever(client, [features(path.read_bytes()) for path in options.files])
        return
    for path in options.files:
        result = ask(client, features(path.read_bytes()))
        scores = result.as_numpy("target_label")[0]
        best = int(scores.argmax())
        print(f"{path}: {names[best]} ({scores[best]:.1%}), answered by version {version_of(result)}")


def ask(client: triton.InferenceServerClient, row: np.ndarray) -> triton.InferResult:
    tensor = triton.InferInput("bytes", [1, 2 * PART_BYTES], "INT32")
    tensor.set_data_from_numpy(row)
    return client.infer("filetype", [tensor])


def version_of(result: triton.InferResult) -> str:
    return str(result.get_response()["model_version"])


def ask_for_ever(client: triton.InferenceServerClient, rows: list[np.ndarray]) -> None:
    answers: Counter[str] = Counter()
    told_s = time.monotonic()
    for row in itertools.cycle(rows):
        time.sleep(1 / REPEATS_PER_SECOND)
        answers[version_of(ask(client, row))] += 1
        if time.monotonic() - told_s >= 1:
            shares = ", ".join(f"{count} by version {version}" for version, count in sorted(answers.items()))
            print(f"answers in the last second: {shares}", flush=True)
            answers.clear()
            told_s = time.monotonic()


if __name__ == "__main__":
    main()
