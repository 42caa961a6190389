"""Draw the README's picture, prefix | cache | suffix, for light and dark pages.

    python docs/pictures/draw.py

It writes prefix-cache-suffix-light.svg and -dark.svg beside itself, with the standard library alone.
"""

from __future__ import annotations

from pathlib import Path

ROLES = ("text", "faint", "line", "frozen", "cache", "trained")
COLOURS = {
    "light": ("#1f2328", "#59636e", "#818b98", "#ddf4ff", "#fff8c5", "#dafbe1"),
    "dark": ("#f0f6fc", "#b1bac4", "#656c76", "#0c2d6b", "#4b2900", "#033a16"),
}
BOXES = (
    # left, width, colour, title, lines
    (110, 190, "frozen", "prefix", ("the frozen layers", "run once per sample")),
    (345, 150, "cache", "cache", ("features in HDF5,", "named by content")),
    (540, 190, "trained", "suffix", ("the layers you train", "run in every epoch")),
)
TOP, HEIGHT, MIDDLE, CUT = 48, 96, 96, 322
SIZE = 840, 176


def text(left: float, top: float, words: str, colour: str, style: str = "400 14px") -> str:
    weight, size = style.split()
    placed = f'x="{left}" y="{top}" fill="{colour}" text-anchor="middle"'
    return f'<text {placed} font-size="{size}" font-weight="{weight}">{words}</text>'


def arrow(start: float, end: float, colour: str) -> str:
    return (
        f'<path d="M{start} {MIDDLE}H{end - 7}" stroke="{colour}" stroke-width="2"/>'
        f'<path d="M{end - 8} {MIDDLE - 5}L{end} {MIDDLE}L{end - 8} {MIDDLE + 5}z" fill="{colour}"/>'
    )


def picture(colours: dict[str, str]) -> str:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE[0]} {SIZE[1]}" width="{SIZE[0]}" height="{SIZE[1]}" '
        'font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif" role="img">',
        "<title>The frozen prefix runs once, its features are cached, and the suffix is trained from the cache.</title>",
        text(50, MIDDLE - 2, "images,", colours["text"]),
        text(50, MIDDLE + 16, "texts, sounds", colours["text"]),
        text(790, MIDDLE + 5, "predictions", colours["text"]),
    ]
    for left, width, colour, title, lines in BOXES:
        centre = left + width / 2
        place = f'x="{left}" y="{TOP}" width="{width}" height="{HEIGHT}" rx="8"'
        parts.append(f'<rect {place} fill="{colours[colour]}" stroke="{colours["line"]}"/>')
        parts.append(text(centre, TOP + 34, title, colours["text"], "600 18px"))
        parts += [text(centre, TOP + 60 + 20 * number, line, colours["faint"]) for number, line in enumerate(lines)]
    for start, end in ((100, 110), (300, 345), (495, 540), (730, 748)):
        parts.append(arrow(start, end, colours["line"]))
    parts.append(
        f'<path d="M{CUT} 26V{TOP + HEIGHT + 14}" stroke="{colours["text"]}" stroke-width="1.5" stroke-dasharray="5 4"/>'
    )
    parts.append(text(CUT, 18, "cut", colours["text"], "600 14px"))
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    for name, chosen in COLOURS.items():
        colours = dict(zip(ROLES, chosen, strict=True))
        (Path(__file__).parent / f"prefix-cache-suffix-{name}.svg").write_text(picture(colours), encoding="utf-8")
