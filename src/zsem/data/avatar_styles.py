"""Tables that say which DiceBear options make a labelled face; one `AvatarStyle` per art style.

Only parts are listed whose label can be seen in the picture: dark sunglasses would hide closed eyes, a bun is
neither long nor short hair, arc-shaped laughing eyes are neither open nor closed.

Licences of the drawings: open-peeps and pixel-art CC0 1.0, toon-head CC BY 4.0, avataaars "free for personal and
commercial use".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class AvatarStyle:
    """How faces of one DiceBear style are drawn and labelled.

    parts: what is chosen for every face, shown or not, so that a counterfactual finds its part already chosen.
    rates: share of faces that have each attribute.
    hides: an attribute and the one that cannot be seen beside it (its label is then 0).
    apart: a colour slot and the slot before it that its colour must stand out from.
    options: DiceBear option -> the part it takes, or (attribute, part) pairs of which the first true one counts;
        a pair with attribute None is always true.
    shown: DiceBear component -> the attribute that shows it, None = never; what is always there is not listed.
    window: centre x, centre y and width of the square around the face, as fractions of the drawing.
    """

    parts: Mapping[str, tuple[str, ...]]
    rates: Mapping[str, float]
    options: Mapping[str, str | tuple[tuple[str | None, str], ...]]
    shown: Mapping[str, str | None]
    window: tuple[float, float, float]
    hides: Mapping[str, str] = field(default_factory=dict)
    apart: Mapping[str, str] = field(default_factory=dict)


def _of(names: str) -> tuple[str, ...]:
    return tuple(names.split())


BACKGROUNDS = _of("#dfe7ee #f2e6d9 #e3efdf #e9e2f2")

AVATAAARS = AvatarStyle(
    parts={
        "background": BACKGROUNDS,
        "skin": _of("#edb98a #ffdbb4 #d08b5b #ae5d29 #614335 #fd9841"),
        "hair_color": _of("#2c1b18 #4a312c #724133 #a55728 #b58143 #d6b370 #c93305 #a39d98"),
        "clothes": _of("blazerAndShirt collarAndSweater hoodie overall shirtCrewNeck shirtVNeck"),
        "clothes_color": _of("#25557c #5199e4 #65c9ff #929598 #ff5c5c #a7ffc4 #ffffb1"),
        "hat_color": _of("#25557c #929598 #ff5c5c #3c4f5c"),
        "glasses_color": _of("#262e33"),
        "brows": _of("defaultNatural raisedExcitedNatural flatNatural"),
        "glasses": _of("prescription01 prescription02 round"),
        "beard": _of("beardLight beardMajestic beardMedium"),
        "smiling_mouth": _of("smile"),
        "other_mouth": _of("serious sad concerned"),
        "hat": _of("hat hijab turban winterHat1 winterHat02 winterHat03 winterHat04"),
        "long_hair": _of(
            "bigHair bob curvy dreads longButNotTooLong miaWallace straight01 straight02 straightAndStrand"
        ),
        "short_hair": _of("dreads01 shortCurly shortFlat shortRound shortWaved sides theCaesar theCaesarAndSidePart"),
        "closed_eyes": _of("closed"),
        "open_eyes": _of("default side squint surprised"),
    },
    rates={"glasses": 0.4, "beard": 0.35, "smile": 0.5, "hat": 0.25, "long_hair": 0.5, "eyes_closed": 0.2},
    hides={"hat": "long_hair"},
    apart={"hair_color": "skin"},
    options={
        "backgroundColor": "background",
        "skinColor": "skin",
        "hairColor": "hair_color",
        "facialHairColor": "hair_color",
        "clothesVariant": "clothes",
        "clothesColor": "clothes_color",
        "hatColor": "hat_color",
        "eyebrowsVariant": "brows",
        "accessoriesVariant": "glasses",
        "accessoriesColor": "glasses_color",
        "facialHairVariant": "beard",
        "mouthVariant": (("smile", "smiling_mouth"), (None, "other_mouth")),
        "topVariant": (("hat", "hat"), ("long_hair", "long_hair"), (None, "short_hair")),
        "eyesVariant": (("eyes_closed", "closed_eyes"), (None, "open_eyes")),
    },
    shown={"accessories": "glasses", "facialHair": "beard"},
    window=(0.5, 0.37, 0.62),
)

TOON_HEAD = AvatarStyle(
    parts={
        "background": BACKGROUNDS,
        "skin": _of("#5c3829 #f1c3a5 #a36b4f #c68e7a #b98e6a"),
        "hair_color": _of("#2c1b18 #d6b370 #724133 #a55728 #b58143"),
        "clothes": _of("dress openJacket shirt tShirt turtleNeck"),
        "clothes_color": _of("#0b3286 #545454 #147f3c #f97316 #ec4899 #731ac3 #b11f1f #eab308"),
        "brows": _of("happy neutral raised"),
        "hair": _of("sideComed spiky undercut"),
        "beard": _of("fullBeard longBeard"),
        "smiling_mouth": _of("laugh"),
        "other_mouth": _of("agape angry"),
        "long_hair": _of("longStraight longWavy shoulderHigh"),
        "closed_eyes": _of("humble"),
        "open_eyes": _of("happy wide"),
    },
    rates={"beard": 0.35, "smile": 0.5, "long_hair": 0.4, "eyes_closed": 0.3},
    apart={"hair_color": "skin"},
    options={
        "backgroundColor": "background",
        "skinColor": "skin",
        "hairColor": "hair_color",
        "clothesVariant": "clothes",
        "clothesColor": "clothes_color",
        "eyebrowsVariant": "brows",
        "hairVariant": "hair",
        "beardVariant": "beard",
        "mouthVariant": (("smile", "smiling_mouth"), (None, "other_mouth")),
        "rearHairVariant": "long_hair",
        "eyesVariant": (("eyes_closed", "closed_eyes"), (None, "open_eyes")),
    },
    shown={"beard": "beard", "rearHair": "long_hair"},
    window=(0.5, 0.45, 0.75),
)

OPEN_PEEPS = AvatarStyle(
    parts={
        "background": BACKGROUNDS,
        "skin": _of("#ffdbb4 #edb98a #d08b5b #ae5d29 #694d3d"),
        "clothes_color": _of("#8fa7df #78e185 #ffcf77 #e279c7 #e78276 #9ddadb #fdea6b"),
        "contrast_color": _of("#e8e1e1 #d6b370 #a55728 #724133 #c93305"),
        "glasses": _of("glasses glasses2 glasses3 glasses5"),
        "beard": _of("full full2 full3"),
        "smiling_face": _of("smile smileBig smileTeethGap"),
        "other_face": _of("driven serious solemn suspicious tired"),
        "hat": _of("hatBeanie hatHip hijab turban"),
        "long_hair": _of("bangs2 long longBangs longCurly medium3 mediumBangs mediumStraight"),
        "short_hair": _of("flatTop grayShort pomp shaved2 short1 short2 short4 short5 twists"),
    },
    rates={"glasses": 0.4, "beard": 0.3, "smile": 0.5, "hat": 0.25, "long_hair": 0.5},
    hides={"hat": "long_hair", "beard": "smile"},
    options={
        "backgroundColor": "background",
        "skinColor": "skin",
        "clothingColor": "clothes_color",
        "headContrastColor": "contrast_color",
        "accessoriesVariant": "glasses",
        "facialHairVariant": "beard",
        "expressionVariant": (("smile", "smiling_face"), (None, "other_face")),
        "headVariant": (("hat", "hat"), ("long_hair", "long_hair"), (None, "short_hair")),
    },
    shown={"accessories": "glasses", "facialHair": "beard", "mask": None},
    window=(0.54, 0.46, 0.78),
)

PIXEL_ART = AvatarStyle(
    parts={
        "background": BACKGROUNDS,
        "skin": _of("#ffdbac #f5cfa0 #e0b687 #cb9e6e #b68655 #a26d3d #8d5524"),
        "hair_color": _of("#cab188 #603a14 #83623b #a78961 #611c17 #28150a #009bbd #bd1700"),
        "clothes": _of("variant01 variant03 variant05 variant07 variant12 variant17 variant23"),
        "clothes_color": _of("#5bc0de #428bca #03396c #88d8b0 #00b159 #ff6f69 #d11141 #ffd969"),
        "hat_color": _of("#2e1e05 #2663a3 #989789 #3d8a6b #cc6192 #614f8a #a62116"),
        "glasses_color": _of("#4b4b4b #191919 #43677d #a04b5d"),
        "eyes_color": _of("#76778b #5b7c8b #588387 #876658"),
        "mouth_color": _of("#e35d6a #de0f0d"),
        "eyes": _of("variant01 variant06 variant08 variant09 variant11"),
        "glasses": _of("light01 light02 light05 light06 light07"),
        "smiling_mouth": _of("happy06 happy07 happy08 happy09"),
        "other_mouth": _of("sad01 sad04 sad06 sad08 sad09"),
        "hat": _of("variant01 variant02 variant03 variant04 variant06 variant09"),
        "long_hair": _of("long01 long02 long03 long04 long07 long09 long12 long13 long20"),
        "short_hair": _of("short01 short02 short03 short06 short09 short16 short17 short22"),
    },
    rates={"glasses": 0.4, "smile": 0.5, "hat": 0.25, "long_hair": 0.5},
    apart={"hair_color": "skin"},
    options={
        "backgroundColor": "background",
        "skinColor": "skin",
        "hairColor": "hair_color",
        "clothesVariant": "clothes",
        "clothingColor": "clothes_color",
        "hatColor": "hat_color",
        "glassesColor": "glasses_color",
        "eyesColor": "eyes_color",
        "mouthColor": "mouth_color",
        "eyesVariant": "eyes",
        "glassesVariant": "glasses",
        "hatVariant": "hat",
        "mouthVariant": (("smile", "smiling_mouth"), (None, "other_mouth")),
        "hairVariant": (("long_hair", "long_hair"), (None, "short_hair")),
    },
    shown={"glasses": "glasses", "hat": "hat", "beard": None, "accessories": None},
    window=(0.5, 0.5, 1.0),
)

STYLES: Mapping[str, AvatarStyle] = {
    "avataaars": AVATAAARS,
    "toon-head": TOON_HEAD,
    "open-peeps": OPEN_PEEPS,
    "pixel-art": PIXEL_ART,
}
