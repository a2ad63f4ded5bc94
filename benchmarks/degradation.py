"""The talk's curve: NMI against how badly picture or sound is degraded, from runs that are trained already.

    python benchmarks/degradation.py SeLaVi=runs/... SeLaVi=runs/... video=runs/... --name avobjects --kmeans video

Runs of one name differ in their seed.  Any run folders will do, such as those of benchmarks/recipes.py and
benchmarks/small_sets.py.  What has been measured is kept in runs/benchmarks/degradation/NAME and not measured again.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import PAGES, RESULTS, ROOT, describe_machine, machine, markdown_table
from small_sets import SETS, find_sets

from selavi.evaluation.corruptions import CORRUPTIONS
from selavi.evaluation.degradation_charts import curves

IMAGES = ROOT / "docs" / "images"

REMARKS = {
    "avdigits": """These are runs of one seed and 45 epochs: rows *default* and *sela-audio* of [labels.md](labels.md).
The picture alone (*sela-video*) is not drawn: it has an NMI of 0.22 to 0.29 there, undegraded, which is what SeLaVi has
to stay above where the sound is ruined.

""",
}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run tools/degrade.py; returns what was measured, with the machine and the command."""
    folder = ROOT / "runs" / "benchmarks" / "degradation" / args.name
    command = [str(ROOT / "tools" / "degrade.py"), *args.runs, "--split", args.split, "--views", str(args.views)]
    command += ["--out", str(folder), *(["--kmeans", *args.kmeans] if args.kmeans else [])]
    if args.set:
        command.append(f"data.root={find_sets([args.set])[SETS[args.set].variable]}")
    if code := subprocess.run([sys.executable, *command]).returncode:
        sys.exit(code)
    folders = {str(Path(told.rpartition("=")[2])) for told in args.runs}
    table = json.loads((folder / f"degradation_{args.split}.json").read_text(encoding="utf-8"))
    table["rows"] = [row for row in table["rows"] if row["run"] in folders]
    trained = json.loads((Path(min(folders)) / "env.json").read_text(encoding="utf-8"))
    for plot in sorted(folder.glob(f"degradation_{args.split}_*.svg")):
        shutil.copy(plot, IMAGES / plot.name.replace("degradation_", f"degradation_{args.name}_"))
    return {
        "title": f"Degraded clips of {args.name}",
        "command": " ".join(["python", "benchmarks/degradation.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "environment": {name: trained[name] for name in ("python", "versions", "git_commit", "device")}
        | {"machine": machine()},
        "name": args.name,
        **table,
    }


def page(result: Mapping[str, Any]) -> str:
    """docs/results/degradation_NAME.md."""
    split, name, rows = result["split"], result["name"], result["rows"]
    sections, shown = [], set()
    for kind, corruption in CORRUPTIONS.items():
        lines = curves(rows, kind)
        if not lines:
            continue
        header = [corruption.unit, "clean", *(f"{severity:g}" for severity in corruption.severities)]
        cells = []
        for line, points in lines.items():
            found = dict(points)
            cells.append([line, *(_cell(found.get(severity)) for severity in (None, *corruption.severities))])
        image = f"degradation_{name}_{split}_{kind if corruption.degrade else 'missing'}.svg"
        picture = "" if image in shown else f"![{corruption.title}](../images/{image})\n\n"
        shown.add(image)
        sections.append(f"## {corruption.title.capitalize()}\n\n{picture}{markdown_table(header, cells)}\n")
    clips = sorted({row["clips"] for row in rows})
    counted = "one view" if result["views"] == 1 else f"{result['views']} views"
    return f"""# Degraded clips: {name}

NMI of clusters with the labels of {" and ".join(map(str, clips))} clips of split {split}, {counted}
each, when their picture or their sound is degraded ([representation.md](../representation.md) says how). A line is a
run's own clusters, of the head that was chosen without labels, or K-means fitted to features of undegraded training
clips. Where a line has several runs (seeds), a cell is their mean and their range. Nothing was trained on degraded
clips.

{REMARKS.get(name, "")}{describe_machine([result])}

```
{result["command"]}
```

{chr(10).join(sections)}"""


def _cell(values: list[float] | None) -> str:
    if not values:
        return "-"
    mean = f"{sum(values) / len(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--name", required=True, help="of the set, in the names of the files")
    parser.add_argument("--kmeans", nargs="+", default=[], metavar="FEATURES")
    parser.add_argument("--set", choices=SETS, help="of benchmarks/small_sets.py: read its media where they are now")
    parser.add_argument("--split", default="test")
    parser.add_argument("--views", type=int, default=3)
    args = parser.parse_args()
    result = measure(args)
    text = json.dumps(result, indent=2) + "\n"
    (RESULTS / f"degradation_{args.name}.json").write_text(text, encoding="utf-8")
    (PAGES / f"degradation_{args.name}.md").write_text(page(result), encoding="utf-8")
    print(f"wrote docs/results/degradation_{args.name}.md, its figures and its JSON", file=sys.stderr)


if __name__ == "__main__":
    main()
