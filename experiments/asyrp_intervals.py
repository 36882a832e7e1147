"""Whether the rule for t_edit gives what the Asyrp paper lists, from the curves in a checkout of its code.

    git clone https://github.com/kwonminki/Asyrp_official
    python -m experiments.asyrp_intervals Asyrp_official

The list has t_edit, and not the cosine of the two texts that the rule takes: it tells in which range that must lie for
the listed t_edit. Each row has the cosine in the middle of that range, as `reference` gives it, and what the rule says.
"""

from __future__ import annotations

import argparse

from zsem.hspace.intervals import phases, read_published

# attribute: t_edit of the paper's tables 2 and 3, and the cosines that it implies
REFERENCE = {
    "smiling": (513, 0.892, 0.899), "sad": (513, 0.892, 0.899), "angry": (512, 0.885, 0.892),
    "tanned": (512, 0.885, 0.892), "man": (513, 0.892, 0.899), "young": (515, 0.905, 0.909),
    "curly hair": (499, 0.832, 0.837), "nicolas": (461, 0.706, 0.711), "pixar": (446, 0.664, 0.668),
    "neanderthal": (490, 0.801, 0.806), "modigliani": (403, 0.565, 0.568), "frida": (321, 0.442, 0.443),
}  # fmt: skip
BOOST = {"celeba": 167, "afhq": 167, "church": 293, "bedroom": 221, "metface": 180}
"""t_boost of the five curves, at 1.2."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", help="folder of Asyrp_official")
    checkout = parser.parse_args().checkout
    curves, worst = read_published(checkout, "celeba"), 0.0
    print("attribute     cosine         t_edit  listed")
    for name, (listed, low, high) in REFERENCE.items():
        found = phases(curves, similarity=(low + high) / 2).t_edit
        worst = max(worst, abs(found - listed))
        print(f"{name:<12}  {low:.3f} - {high:.3f}  {found:6.0f}  {listed:6d}")
    print(f"worst difference: {worst:g} timesteps")
    print("\ndata set      t_edit  t_boost  listed")
    for name, listed in BOOST.items():
        found = phases(read_published(checkout, name))
        print(f"{name:<12}  {found.t_edit:6.0f}  {found.t_boost:7.0f}  {listed:6d}")


if __name__ == "__main__":
    main()
