"""Make green for filetype.yaml: an int8 copy of magika's model. Same inputs, same labels, slightly different scores."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys
import warnings
from pathlib import Path

BUILD = Path(__file__).parent / "build"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=BUILD / "filetype-int8.onnx")
    output = parser.parse_args().output
    if output.exists():
        return
    package = importlib.util.find_spec("magika")
    if package is None or not package.submodule_search_locations:
        sys.exit("the package magika is not installed; run: make setup")
    source = Path(package.submodule_search_locations[0], "models", "standard_v3_3", "model.onnx")

    from onnxruntime.quantization import QuantType, quantize_dynamic

    print(f"quantising {source.name} of magika to int8: {output}", file=sys.stderr)
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_suffix(f".{os.getpid()}.part")
    logging.disable(logging.WARNING)  # the library recommends a pre-processing step that this model does not need
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_dynamic(source, unfinished, weight_type=QuantType.QUInt8)
    unfinished.replace(output)


if __name__ == "__main__":
    main()
