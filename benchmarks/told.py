"""Figures in a text: `{{names > of a figure | form}}` is replaced by what was measured."""

import re


def figure(figures, path):
    """One figure by its path of names: `anchored > hiding > caption words > sinks > is`.

    In a reproduction a name is that of a row, or `difference`, that of its verdict.
    """
    value = figures
    for name in path.split(" > "):
        if isinstance(value, list):
            value = value[int(name)]
        elif "rows" not in value:
            value = named(value, name, path)
        elif name == "difference":
            said = value["because"].partition("difference ")[2]
            value = [float(one) for one in re.findall(r"[-+.\d]+", said)[:3]]
        else:
            rows = {", ".join(map(str, group.values())): at for group, *at in value["rows"]}
            value = named(rows, name, path)
    return value


def named(values, name, path):
    """One of some values, or an error that has the names of all."""
    if name not in values:
        raise KeyError(f"{path}: {name!r} is none of {', '.join(values)}")
    return values[name]


def told(value, form):
    """A figure as the text tells it, without the 0 before the point.

    `form` is the number of digits, behind `+` with its sign, behind `~` as a cost (its sign turned
    round), behind `=` without its interval.
    """
    *marks, digits = form
    if unknown := set(marks) - set("+~="):
        raise ValueError(f"{form!r}: {unknown} are none of +, ~ and =")
    values = [value] if isinstance(value, float | int) else value
    if "~" in marks:
        mean, low, high = values
        values = [-mean, -high, -low]
    sign = "+" if "+" in marks else ""
    mean, *ends = (_number(one, sign, int(digits)) for one in values)
    return mean if "=" in marks or not ends else f"{mean} [{', '.join(ends)}]"


def _number(value, sign, digits):
    """As the text has it: no 0 before the point, no minus before what rounds to zero."""
    rounded = round(value, digits) + 0.0
    return re.sub(r"\b0\.", ".", f"{rounded:{sign},.{digits}f}")


def filled(text, figures, tables):
    """A text with its figures and tables; a table that was not measured is said to be missing."""

    def put(match):
        path, _, form = " ".join(match[1].split()).partition(" | ")
        if form:
            return told(figure(figures, path), form)
        return tables.get(path, f"*Not measured: {path}.*")

    return re.sub(r"\{\{(.+?)\}\}", put, text, flags=re.DOTALL)
