"""Label the tiles of a package in QGIS: open its project, edit the layer `review`, save.

Usage: label_package.py PACKAGE ANSWERS.json, where the answers are classes by sample id.
Prints how many features it changed.
"""

import json
import sys
from pathlib import Path

from qgis.core import QgsApplication, QgsProject


def main(package: Path, answers: Path) -> None:
    said = json.loads(answers.read_text(encoding="utf-8"))
    application = QgsApplication([], False)
    application.initQgis()
    project = QgsProject.instance()
    assert project.read(str(package / "review.qgz"))
    layer = project.mapLayersByName("review")[0]
    assert layer.startEditing()
    decision, true_class, reviewer, when = (
        layer.fields().indexOf(name)
        for name in ("decision", "true_class", "reviewer", "reviewed_ms")
    )
    changed = 0
    for feature in layer.getFeatures():
        name = feature["sample_id"]
        if name not in said:
            continue
        values = {decision: "accept", true_class: said[name], reviewer: "Ada", when: 10**12}
        assert layer.changeAttributeValues(feature.id(), values)
        changed += 1
    assert layer.commitChanges(), layer.commitErrors()
    sys.stdout.write(f"{changed}\n")
    project.clear()
    application.exitQgis()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
