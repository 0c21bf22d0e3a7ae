"""Damage to bytes, drawn by hypothesis, and how many examples a property is tried on."""

from hypothesis import Phase, settings
from hypothesis import strategies as st

PLACES = st.integers(0, 2**20)
EDITS = st.one_of(
    st.tuples(st.just("flip"), PLACES, st.integers(1, 255)),
    st.tuples(st.just("insert"), PLACES, st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("overwrite"), PLACES, st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("remove"), PLACES, st.integers(1, 100)),
    st.tuples(st.just("repeat"), PLACES, st.integers(1, 100)),
    st.tuples(st.just("swap"), PLACES, PLACES),
    st.tuples(st.just("truncate"), PLACES, st.none()),
)


def edited(content, edits):
    """The bytes after all edits; places wrap around."""
    for kind, place, value in edits:
        if not content:
            break
        place %= len(content)
        head, tail = content[:place], content[place:]
        if kind == "flip":
            content = head + bytes([tail[0] ^ value]) + tail[1:]
        elif kind == "insert":
            content = head + value + tail
        elif kind == "overwrite":
            content = head + value + tail[len(value) :]
        elif kind == "remove":
            content = head + tail[value:]
        elif kind == "repeat":
            content = head + tail[:value] + tail
        elif kind == "swap":
            first, second = sorted((place, value % len(content)))
            parts = content[:first], content[first:second], content[second:]
            content = parts[0] + parts[2] + parts[1]
        else:
            content = head
    return content


def whole_runs(share):
    """Settings of a test whose every example is a run of inference: so much fewer examples than others have."""
    # To find the smallest folder that fails takes longer than to see which of its files does.
    phases = (Phase.explicit, Phase.generate)
    return settings(max_examples=max(settings.default.max_examples // share, 1), phases=phases)
