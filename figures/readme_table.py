"""Write the numbers of figures/*.csv into the marked block of README.md, so that prose cannot drift from data."""

from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- numbers: begin -->", "<!-- numbers: end -->"
LABELS = {"dpo": "**DPO**", "slic": "SLiC", "orpo": "ORPO", "simpo": "SimPO", "cal_dpo": "Cal-DPO"}


def final_distances(csv: Path) -> str:
    """Return a Markdown table of the final JS(π*‖π) of each tuned objective, by τ."""
    frame = pd.read_csv(csv)
    frame = frame[frame["panel"].str.endswith("final") & (frame["quantity"] == "js_target")]
    ends = frame.loc[frame.groupby(["panel", "series"], sort=False)["x"].idxmax()]
    ends = ends.assign(tau=ends["panel"].str.partition(",")[0])
    lines = ["| JS(π*‖π), nats | " + " | ".join(ends["tau"].unique()) + " |", "|---|" + "---|" * ends["tau"].nunique()]
    for series, rows in ends.groupby("series", sort=False):
        cells = [f"{row['mean']:.1e} [{row['lo']:.1e}, {row['hi']:.1e}]" for _, row in rows.iterrows()]
        lines.append(f"| {LABELS[str(series)]} | " + " | ".join(cells) + " |")
    seeds, steps = int(ends["n"].iloc[0]), int(ends["x"].max())
    lines.append(f"\nMeans over {seeds} seeds after {steps} steps, with 95% bootstrap intervals.")
    return "\n".join(lines)


def filled(readme: str, table: str) -> str:
    """Return the README with its marked block replaced."""
    head, rest = readme.split(BEGIN)
    tail = rest.split(END)[1]
    return f"{head}{BEGIN}\n{table}\n{END}{tail}"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(
        filled(readme.read_text(encoding="utf-8"), final_distances(ROOT / "figures" / "fig7.csv")), "utf-8"
    )
