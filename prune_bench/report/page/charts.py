"""The report's charts, as Vega-Lite specifications over the tables of ``rows.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Spec = dict[str, Any]

COLOURS = [
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B8860B", "#3FA7D6", "#8C564B", "#7A5CC2", "#7F8C1F", "#7F7F7F",
]  # fmt: skip
"""Seen apart by people who are colour-blind, on white as on black; methods take them in the experiment's order."""
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right"]
VERDICT_COLOURS = {"pass": "#009E73", "fail": "#D55E00", "too few seeds": "#8A8A8A"}
VARIANT_SHAPES = {"original": "circle", "layer_shuffle": "square", "reinit": "triangle-up", "invert": "diamond"}


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart of the report.

    Attributes:
        name: Of its figure file, and of its place in the page.
        title: A heading.
        caption: What is drawn, and how to read it.
        tables: The tables it draws.
        spec: In Vega-Lite, over tables by name; ``height`` is in pixels.
        at_density: Whether it shows one density, the one chosen in the page.
    """

    name: str
    title: str
    caption: str
    tables: tuple[str, ...]
    spec: Spec
    at_density: bool = False


def make_charts(methods: list[str]) -> list[Chart]:
    """Every chart.

    Args:
        methods: All pruning methods there are, in the order that decides their colours.
    """
    scales = Scales(methods)
    return [
        _accuracy(scales), _cost(scales, "seconds", "seconds"), _cost(scales, "epochs", "dense epochs"),
        _variants(methods), _losses(methods), _pairs(methods), _effective(scales), _layers(methods),
        _curves(scales, "train_loss", "training loss", "Mean cross-entropy of an epoch, in nats, log scale."),
        _curves(scales, "validation_accuracy", "validation accuracy", "On held-out training images."),
    ]  # fmt: skip


class Scales:
    """A colour and a shape a method, the same in every chart whatever is filtered out."""

    def __init__(self, methods: list[str]) -> None:
        self.methods = methods
        colours = [COLOURS[place % len(COLOURS)] for place in range(len(methods))]
        shapes = [SHAPES[place % len(SHAPES)] for place in range(len(methods))]
        legend: Spec = {"orient": "bottom", "title": None, "symbolOpacity": 1}
        self.colour: Spec = {
            "field": "method", "type": "nominal", "scale": {"domain": methods, "range": colours}, "legend": legend,
        }  # fmt: skip
        self.shape: Spec = {
            "field": "method", "type": "nominal", "scale": {"domain": methods, "range": shapes}, "legend": legend,
        }  # fmt: skip


def _data(name: str) -> Spec:
    return {"name": name}


def _number(field: str, title: str, **more: Any) -> Spec:
    return {"field": field, "type": "quantitative", "title": title, **more}


def _tips(*fields: tuple[str, str, str | None]) -> list[Spec]:
    return [
        {"field": field, "title": title, **({"type": "quantitative", "format": how} if how else {"type": "nominal"})}
        for field, title, how in fields
    ]


_DENSITY: Spec = _number(
    "density", "density (log scale, sparser to the right)", scale={"type": "log", "reverse": True, "nice": False,
    "padding": 12}, axis={"format": "~g", "labelOverlap": True, "grid": False},
)  # fmt: skip
_ACCURACY: Spec = _number("accuracy", "test accuracy, %", scale={"zero": False})
_TIPS = _tips(
    ("method", "method", None), ("density", "density", ".4g"), ("accuracy", "mean accuracy, %", ".2f"),
    ("low", "95 % interval from", ".2f"), ("high", "to", ".2f"), ("each", "each seed", None),
)  # fmt: skip


def _accuracy(scales: Scales) -> Chart:
    colour = scales.colour
    layers = [
        {"data": _data("summary"), "mark": {"type": "area", "opacity": 0.08},
         "encoding": {"x": _DENSITY, "y": _number("low", "test accuracy, %", scale={"zero": False}),
                      "y2": {"field": "high"}, "color": colour}},
        {"data": _data("dense"), "mark": {"type": "rule", "strokeDash": [6, 4], "color": "var(--ink)"},
         "encoding": {"y": _ACCURACY, "tooltip": _tips(("accuracy", "dense, mean accuracy, %", ".2f"))}},
        {"data": _data("published"), "mark": {"type": "line", "strokeDash": [2, 3], "strokeWidth": 1.5},
         "encoding": {"x": _DENSITY, "y": _ACCURACY, "color": colour, "detail": {"field": "source"}}},
        {"data": _data("published"), "mark": {"type": "point", "filled": False, "size": 45},
         "encoding": {"x": _DENSITY, "y": _ACCURACY, "color": colour, "shape": scales.shape,
                      "tooltip": _tips(("method", "published for", None), ("source", "as", None),
                                       ("density", "density", ".4g"), ("accuracy", "accuracy, %", ".2f"),
                                       ("std", "std", ".2f"))}},
        {"data": _data("seeds"), "mark": {"type": "point", "filled": True, "size": 14, "opacity": 0.55},
         "encoding": {"x": _DENSITY, "y": _ACCURACY, "color": colour,
                      "tooltip": _tips(("method", "method", None), ("density", "density", ".4g"),
                                       ("seed", "seed", ".0f"), ("accuracy", "accuracy, %", ".2f"))}},
        {"data": _data("summary"), "mark": {"type": "line", "strokeWidth": 2},
         "encoding": {"x": _DENSITY, "y": _ACCURACY, "color": colour}},
        {"data": _data("summary"), "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
         "encoding": {"x": _DENSITY, "y": _ACCURACY, "color": colour, "shape": scales.shape, "tooltip": _TIPS}},
    ]  # fmt: skip
    return Chart(
        name="accuracy", title="Accuracy against sparsity", tables=("summary", "seeds", "dense", "published"),
        caption="Lines are means over seeds, small points single seeds, bands 95 % t intervals of the mean (none "
        "where seeds are too few). The dashed rule is the dense network; dotted lines with hollow points are "
        "published.",
        spec={"height": 380, "layer": layers},
    )  # fmt: skip


def _cost(scales: Scales, cost: str, unit: str) -> Chart:
    field = "seconds" if cost == "seconds" else "dense_epochs"
    ticks = [0, 0.1, 1, 10, 100, 1000, 10_000, 100_000]
    x = _number(
        field, f"cost of finding the ticket, {unit} (log scale from 0.1)",
        scale={"type": "symlog", "constant": 0.1, "nice": False, "padding": 24},
        axis={"values": ticks, "labelExpr": "'' + datum.value", "labelOverlap": True},
    )  # fmt: skip
    front = {"transform": [{"filter": f"datum.front_{cost}"}],
             "mark": {"type": "line", "interpolate": "step-after", "aria": False, "color": "var(--ink)",
                      "strokeDash": [4, 3]},
             "encoding": {"x": x, "y": _ACCURACY, "order": {"field": field, "type": "quantitative"}}}  # fmt: skip
    points = [
        {"mark": {"type": "rule", "strokeWidth": 1.5},
         "encoding": {"x": x, "y": _number("low", "test accuracy, %", scale={"zero": False}),
                      "y2": {"field": "high"}, "color": scales.colour}},
        {"mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
         "encoding": {"x": x, "y": _ACCURACY, "color": scales.colour, "shape": scales.shape,
                      "tooltip": [*_TIPS, *_tips((field, unit, ".3g"))]}},
    ]  # fmt: skip
    return Chart(
        name=f"cost_{cost}", title=f"Accuracy against cost in {unit}", tables=("summary",), at_density=True,
        caption="The dashed line is the Pareto front among all methods: no other one is both cheaper and more "
        "accurate. Costs are means over seeds.",
        spec={"height": 320, "data": _data("summary"), "layer": [front, *points]},
    )  # fmt: skip


def _variants(methods: list[str]) -> Chart:
    method = {
        "field": "method",
        "type": "nominal",
        "title": None,
        "sort": methods,
    }
    shape = {
        "field": "variant", "type": "nominal", "title": None,
        "legend": {"orient": "bottom", "title": None},
        "scale": {"domain": list(VARIANT_SHAPES), "range": list(VARIANT_SHAPES.values())},
    }  # fmt: skip
    colour = {**shape, "scale": {"domain": list(VARIANT_SHAPES), "range": COLOURS[:4]}}
    return Chart(
        name="variants", title="Sanity checks: originals and their altered selves", tables=("variants",),
        at_density=True,
        caption="Mean accuracy of each method's tickets, and of the same tickets with positions shuffled inside each "
        "layer, with weights drawn anew, or inverted. A ticket that means something loses accuracy when altered.",
        spec={
            "height": {"step": 26}, "data": _data("variants"),
            "layer": [
                {"mark": {"type": "line", "color": "var(--faint)"},
                 "encoding": {"y": method, "x": _ACCURACY, "detail": {"field": "method"}}},
                {"mark": {"type": "point", "filled": True, "size": 75, "opacity": 1},
                 "encoding": {"y": method, "x": _ACCURACY, "shape": shape, "color": colour,
                              "tooltip": _tips(("method", "method", None), ("variant", "variant", None),
                                               ("accuracy", "mean accuracy, %", ".2f"))}},
            ],
        },
    )  # fmt: skip


def _losses(methods: list[str]) -> Chart:
    method = {"field": "method", "type": "nominal", "title": None, "sort": methods}
    verdicts, colours = list(VERDICT_COLOURS), list(VERDICT_COLOURS.values())
    legend = {"orient": "bottom", "title": None}
    colour = {
        "field": "verdict",
        "type": "nominal",
        "scale": {"domain": verdicts, "range": colours},
        "legend": legend,
    }
    shape = {**colour, "scale": {"domain": verdicts, "range": ["circle", "cross", "diamond"]}}
    offset = {"field": "variant", "type": "nominal"}
    tips = _tips(
        ("method", "method", None), ("variant", "variant", None), ("loss", "accuracy lost, points", ".2f"),
        ("low", "95 % interval from", ".2f"), ("high", "to", ".2f"), ("pairs", "seeds", ".0f"),
        ("verdict", "verdict", None),
    )  # fmt: skip
    where = {"y": method, "yOffset": offset, "color": colour}
    return Chart(
        name="losses", title="Sanity checks: accuracy lost, with verdicts", tables=("checks",), at_density=True,
        caption="Points of accuracy that each variant loses against its original, paired by seed, with 95 % t "
        "intervals; within a method from top to bottom the variants in the order of the table.",
        spec={
            "height": {"step": 16}, "data": _data("checks"),
            "layer": [
                {"data": {"values": [{"zero": 0}]}, "mark": {"type": "rule", "color": "var(--ink)"},
                 "encoding": {"x": {"field": "zero", "type": "quantitative"}}},
                {"mark": {"type": "rule", "strokeWidth": 1.5},
                 "encoding": {**where, "x": _number("low", "accuracy lost, points"), "x2": {"field": "high"}}},
                {"mark": {"type": "point", "filled": True, "size": 65, "opacity": 1},
                 "encoding": {**where, "x": _number("loss", "accuracy lost, points"), "shape": shape,
                              "tooltip": tips}},
            ],
        },
    )  # fmt: skip


def _pairs(methods: list[str]) -> Chart:
    where = {"y": {"field": "method", "type": "nominal", "title": None, "sort": methods},
             "x": {"field": "against", "type": "nominal", "title": "against", "sort": methods,
                   "axis": {"labelAngle": -40}}}  # fmt: skip
    tips = _tips(
        ("method", "method", None), ("against", "against", None), ("difference", "difference, points", "+.2f"),
        ("low", "95 % interval from", "+.2f"), ("high", "to", "+.2f"), ("pairs", "seeds", ".0f"),
        ("p_holm", "p (Holm)", ".3g"),
    )  # fmt: skip
    colour = _number(
        "difference", "points",
        scale={"scheme": {"name": "blueorange", "extent": [0.15, 0.85]}, "domainMid": 0, "reverse": True},
        legend={"orient": "bottom", "gradientLength": 160},
    )  # fmt: skip
    text = {"text": {"field": "difference", "format": "+.1f"}, "color": {"value": "#111"}}
    return Chart(
        name="pairs", title="Method against method", tables=("pairs",), at_density=True,
        caption="Paired difference in accuracy, row minus column, on the same seeds. A frame marks differences "
        "beyond chance: p below 0.05 after Holm's correction over all pairs at this density.",
        spec={
            "height": {"step": 26}, "data": _data("pairs"), "encoding": where,
            "layer": [
                {"mark": {"type": "rect"}, "encoding": {"color": colour, "tooltip": tips}},
                {"transform": [{"filter": "isValid(datum.p_holm) && datum.p_holm < 0.05"}],
                 "mark": {"type": "rect", "filled": False, "stroke": "#111", "strokeWidth": 2, "aria": False}},
                {"mark": {"type": "text", "fontSize": 10}, "encoding": text},
            ],
        },
    )  # fmt: skip


def _effective(scales: Scales) -> Chart:
    log = {"type": "log", "nice": False, "padding": 12, "reverse": True}
    y = _number(
        "effective_density",
        "effective density (log scale)",
        scale={**log, "reverse": False},
        axis={"format": "~g", "labelOverlap": True},
    )
    nominal = {**y, "field": "density"}
    tips = [*_TIPS[:2], *_tips(("effective_density", "effective", ".4g"), ("collapsed", "seeds collapsed", ".0%"))]
    encoding = {"x": _DENSITY, "y": y, "color": scales.colour}
    return Chart(
        name="effective", title="Effective against nominal density", tables=("effective", "collapsed"),
        caption="Weights on a path from input to output; on the dashed diagonal all kept weights are. A red cross "
        "marks densities at which a seed's network has collapsed; where no weight is left on a path there is "
        "no point.",
        spec={
            "height": 320, "data": _data("effective"),
            "layer": [
                {"mark": {"type": "line", "strokeDash": [6, 4], "color": "var(--ink)"},
                 "encoding": {"x": _DENSITY, "y": nominal}},
                {"mark": {"type": "line"}, "encoding": encoding},
                {"mark": {"type": "point", "filled": True, "size": 50, "opacity": 1},
                 "encoding": {**encoding, "shape": scales.shape, "tooltip": tips}},
                {"data": _data("collapsed"),
                 "mark": {"type": "point", "shape": "M-1,-1L1,1M-1,1L1,-1", "size": 90, "color": "#D00000"},
                 "encoding": {"x": _DENSITY, "y": y}},
            ],
        },
    )  # fmt: skip


def _layers(methods: list[str]) -> Chart:
    layer = {"field": "layer", "type": "nominal", "title": None, "sort": {"field": "place"}}
    method = {"field": "method", "type": "nominal", "title": None, "sort": methods, "axis": {"labelAngle": -40}}
    shown = [{"calculate": "max(datum.kept, 1e-5)", "as": "shade"}]
    colour = _number(
        "shade", "density, log scale", scale={"type": "log", "scheme": "viridis", "domainMax": 1},
        legend={"orient": "bottom", "gradientLength": 160, "format": "~g"},
    )  # fmt: skip
    tips = _tips(("method", "method", None), ("layer", "layer", None), ("kept", "density", ".4g"))
    dark = {"condition": {"test": "datum.kept > 0.15", "value": "#111"}, "value": "#fff"}
    return Chart(
        name="layers", title="Where the weights are: density layer by layer", tables=("layers",), at_density=True,
        caption="Percent of each layer's weights that the ticket keeps, a mean over seeds; layers from input to "
        "output.",
        spec={
            "height": {"step": 22}, "data": _data("layers"), "transform": shown,
            "encoding": {"y": layer, "x": method},
            "layer": [
                {"mark": "rect", "encoding": {"color": colour, "tooltip": tips}},
                {"transform": [{"calculate": "format(datum.kept * 100, '.2~g')", "as": "percent"}],
                 "mark": {"type": "text", "fontSize": 10},
                 "encoding": {"text": {"field": "percent"}, "color": dark}},
            ],
        },
    )  # fmt: skip


def _curves(scales: Scales, field: str, what: str, caption: str) -> Chart:
    scale = {"type": "log"} if field == "train_loss" else {"zero": False}
    y = _number(field, what, scale=scale)
    tips = _tips(("method", "method", None), ("epoch", "epoch", ".0f"), (field, what, ".4f"))
    return Chart(
        name=f"curves_{field}", title=f"Training curves: {what}", tables=("curves",), at_density=True,
        caption=f"{caption} Means over seeds of the original tickets.",
        spec={
            "height": 260, "data": _data("curves"), "transform": [{"filter": f"isValid(datum.{field})"}],
            "mark": {"type": "line", "tooltip": True},
            "encoding": {"x": _number("epoch", "epoch"), "y": y, "color": scales.colour, "tooltip": tips},
        },
    )  # fmt: skip
