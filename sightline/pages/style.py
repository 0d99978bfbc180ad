"""How charts look. The page sets their colours: `--accent`, `--bad`, `--line`, `--quiet` and `--paper`."""

SERIES = 8  # colours
_HUES = (210, 25, 120, 280, 50, 170, 340, 90)


def series_colour(number: int) -> str:
    """The colour of a category's boxes, or of a line among others."""
    return f"hsl({_HUES[number % SERIES]} 90% 45%)"


CHARTS = """
.chart { display: block; max-width: 100%; height: auto; }
.chart text { font-size: 12px; fill: var(--quiet); }
.chart .grid { stroke: var(--line); }
.chart .ideal { stroke: var(--quiet); stroke-dasharray: 4; }
.chart .plot { fill: none; stroke: var(--line); }
.chart .dot { fill: var(--accent); fill-opacity: .45; }
.chart .point { fill: var(--accent); }
.chart .fit, .chart .whisker, .chart .series { fill: none; stroke: var(--accent); stroke-width: 2; }
.chart .whisker { opacity: .55; }
.charts { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
.charts figure { width: auto; max-width: 100%; }
.legend { list-style: none; padding: 0; margin: 0; display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
.legend { font-size: .85rem; max-width: 340px; }
.legend li { overflow-wrap: anywhere; }
.legend b { font-weight: 700; }
.bars { list-style: none; padding: 0; margin: 0; display: grid; gap: .3rem; }
.bars li { display: grid; grid-template-columns: minmax(5rem, 14rem) minmax(0, 1fr) 4.5rem; }
.bars li { gap: .9rem; align-items: center; }
.bars svg { width: 100%; display: block; border-radius: 3px; background: var(--paper); }
.bars rect { fill: var(--accent); }
.bars .number { text-align: right; font-variant-numeric: tabular-nums; }
.matrix { width: auto; border-collapse: separate; border-spacing: 2px; font-size: .85rem; }
.matrix th, .matrix td { border: 0; padding: .25rem .5rem; }
.matrix tbody th { text-align: right; max-width: 14rem; }
.matrix thead th { vertical-align: bottom; white-space: nowrap; }
.matrix thead th span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 12rem; overflow: hidden; }
.matrix tbody td { text-align: center; min-width: 2.3rem; border-radius: 5px; }
.matrix tbody td { background: color-mix(in srgb, var(--shade) var(--strength), var(--paper)); }
.matrix td a { color: inherit; display: block; margin: -.25rem -.5rem; padding: .25rem .5rem; }
.matrix .right { --shade: var(--accent); } .matrix .wrong { --shade: var(--bad); }
.matrix .s0 { --strength: 0%; } .matrix .s1 { --strength: 14%; } .matrix .s2 { --strength: 22%; }
.matrix .s3 { --strength: 30%; }
.matrix .s4 { --strength: 38%; } .matrix .s5 { --strength: 44%; } .matrix .s6 { --strength: 50%; }
""" + "".join(
    f".k{number} {{ color: {series_colour(number)}; }} .chart .k{number} {{ stroke: {series_colour(number)}; }}\n"
    for number in range(SERIES)
)
