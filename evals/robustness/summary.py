"""The results of a suite in sentences: what the command prints, and the page says."""

from typing import Any

from physnn.units import readable


def summary(results: dict[str, Any]) -> str:
    """The results as text for a terminal."""
    design, unit = results["design"]["median"], results["unit"]
    lines = [
        f"{results['title']}: {design:.4f} {unit} without noise, on"
        f" {results['scored']:,} targets of {results['windows']} windows",
        *(f"  {sentence}" for sentence in results["about"]),
    ]
    lines += _sources(results)
    for study in ("monte_carlo", "ageing"):
        rows = [row for row in results["studies"] if row["study"] == study]
        name = study.replace("_", " ")
        lines += [f"  {name:<14}{said(row, design)}" for row in rows]
    lines += [f"  {text}" for text in worst_points(results)]
    lines += [f"  {text}" for text in (*of_worst_case(results), *of_yield(results))]
    lines += [f"  {text}" for text in of_ranking(results)[:3]]
    lines += [
        f"  {said}" for said in (results.get("ranking") or {}).get("overrides", ())
    ]
    return "\n".join(lines)


def _sources(results) -> list[str]:
    lines = ["  sources that were active:"]
    for each in results["sources"]:
        if each["acts_on"]:
            n, deaf = len(each["acts_on"]), len(each["deaf"])
            lines.append(
                f"    {each['name']} = {amount(each)}: acts on {n} parts, {deaf} deaf"
            )
    for name in results["left_out"]:
        lines.append(f"    {name}: left out, no part of this model honors it")
    for name, why in results["refused"].items():
        lines.append(f"  table {name}: left out, {why}")
    return lines


def amount(source: dict[str, Any]) -> str:
    """Value and unit of a source, and its frequency where it has one."""
    value = source["value"]
    shown = value if isinstance(value, str) else f"{value:.3g}"
    frequency = source.get("frequency")
    when = f", {frequency[0]} {frequency[1]:.3g} Hz" if frequency else ""
    return f"{shown} [{source['unit']}{when}]"


def said(row: dict[str, Any], design: float) -> str:
    """A point: where it is, its median over chips, and what that loses."""
    lost = row["median"] / design - 1
    chips = len(row["bits"])
    spread = f" ({row['low']:.4f} to {row['high']:.4f}, {chips} chips)"
    return f"{row['x']:g} {row['unit']}: {row['median']:.4f}{spread}, {lost:+.1%}"


def worst_points(results: dict[str, Any]) -> list[str]:
    """The point that loses most of each other study."""
    design, found = results["design"]["median"], []
    for study in ("one_factor", "operating", "faults"):
        rows = [row for row in results["studies"] if row["study"] == study]
        if rows:
            row = max(rows, key=lambda row: row["median"])
            name = study.replace("_", " ")
            found.append(f"worst {name}: {row['series']}, {said(row, design)}")
    return found


def of_worst_case(results: dict[str, Any]) -> list[str]:
    """What the gradient found, beside random chips."""
    found = results.get("worst_case")
    if not found:
        return []
    bound, worst = found["bound"], found["random"]["worst"]
    verdict = "worse" if found["found_worse"] else "not worse"
    lines = [
        f"worst case: {found['worst']:.4f} by gradient, {verdict} than the worst of"
        f" {found['n_random']:,} random chips, {worst:.4f}"
        f" (median {found['random']['median']:.4f}, design {found['design']:.4f});"
        f" bound: |z| <= {bound['radius']:.4g}, every device within"
        f" {bound['sigmas']:g} sigma",
        f"elsewhere: {found['worst_elsewhere']:.4f} and"
        f" {found['random']['worst_elsewhere']:.4f}"
        f" (design {found['design_elsewhere']:.4f})",
    ]
    enough = [each for each in found["shifts"] if each["bits"] > worst]
    if enough:
        lines.append(
            f"a shift of {enough[0]['sigmas']:g} sigma along one direction is already"
            f" worse than all of them ({enough[0]['bits']:.4f})"
        )
    return lines


def of_yield(results: dict[str, Any]) -> list[str]:
    """Yields with their intervals."""
    found = results.get("yields")
    if not found:
        return []
    lines = [f"yield, {found['bar']}:"]
    for when in ("before", "after"):
        if when in found:
            lines.append(f"  {when} calibration {share(found[when])}")
    if "why" in found:
        lines.append(f"  not calibrated: {found['why']}")
    return lines


def share(row: dict[str, Any]) -> str:
    """`62 of 64 chips, 96.9 % (89.2 % to 99.6 %)`."""
    percent = lambda value: f"{100 * value:.1f} %"
    return (
        f"{row['passed']} of {row['chips']} chips, {percent(row['share'])}"
        f" ({percent(row['low'])} to {percent(row['high'])} with"
        f" {row['confidence']:.0%} confidence)"
    )


def of_ranking(results: dict[str, Any]) -> list[str]:
    """The banks that spend most quality, and what more area would cost."""
    found = results.get("ranking")
    if not found:
        return []
    lines = []
    for row in found["rows"]:
        energy = row["energy_J"]
        cost = "Joules not modeled" if energy is None else readable(energy, "J")
        lines.append(
            f"{row['bank']} ({row['kind']}) spends {row['lost']:+.4f}; with"
            f" {found['area']:g}x its area {row['lost_enlarged']:+.4f}, for"
            f" {cost} per token and {1e12 * row['more_m2']:,.0f} um2"
        )
    return lines
