"""What an image's layers leave: later ones replace, remove and hide what earlier ones have."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.registries.oci_overlay import Change, Put, Remove, overlaid

ONE, TWO = "1" * 64, "2" * 64


# Seconds mean nothing on a busy machine.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def put(path: str, digest: str = ONE) -> Put:
    return Put(path, 1, digest)


def test_a_later_layer_replaces_a_file() -> None:
    assert overlaid([[put("a", ONE)], [put("a", TWO)]]) == {"a": (1, put("a", TWO))}


def test_a_whiteout_removes_a_file_or_a_whole_folder() -> None:
    below = [put("a"), put("ab"), put("f/x"), put("f/y/z")]
    assert overlaid([below, [Remove("a"), Remove("f")]]).keys() == {"ab"}
    assert overlaid([below, [Remove("")]]) == {}


def test_a_whiteout_hides_only_what_is_below_its_layer() -> None:
    assert overlaid([[put("f/a")], [put("f/b"), Remove("f")], [put("c")]]).keys() == {"f/b", "c"}


def test_a_file_takes_the_place_of_a_folder_and_a_folder_that_of_a_file() -> None:
    assert overlaid([[put("f/a"), put("f/b/c")], [put("f")]]).keys() == {"f"}
    assert overlaid([[put("f")], [put("f/a")]]).keys() == {"f/a"}


_PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join)
_CHANGES = st.lists(st.one_of(_PATHS.map(put), _PATHS.map(Remove), st.just(Remove(""))), max_size=6)


@PATIENT
@given(st.lists(_CHANGES, max_size=4))
def test_layers_do_what_a_file_system_would_do(layers: list[list[Change]]) -> None:
    files: dict[str, int] = {}
    for number, changes in enumerate(layers):
        for change in changes:
            if isinstance(change, Remove):
                gone = f"{change.path}/" if change.path else ""
                files = {path: n for path, n in files.items() if not f"{path}/".startswith(gone)}
        for change in changes:
            if isinstance(change, Put):
                own = f"{change.path}/"
                files = {
                    path: n
                    for path, n in files.items()
                    if not f"{path}/".startswith(own) and not own.startswith(f"{path}/")
                }
                files[change.path] = number
    assert {path: number for path, (number, _) in overlaid(layers).items()} == files
