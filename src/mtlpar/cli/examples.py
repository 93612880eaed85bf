"""An example of each command, for the end of its ``--help``."""

from __future__ import annotations

from typing import Final

EXAMPLES: Final = {
    "init": "mtlpar init trial --sample",
    "download": "mtlpar download --source ani1x",
    "extract": "mtlpar extract --source ani1x --jobs 8",
    "normalize": "mtlpar normalize --source ani1x",
    "leaks": "mtlpar leaks",
    "pack": "mtlpar pack --source ani1x --jobs 8",
    "inspect": "mtlpar inspect results/packed/ani1x/train.bp --verify",
    "export": "mtlpar export results/packed/ani1x/test.bp test.extxyz --limit 100",
    "train": "mtlpar launch --ranks-per-node 4 -- mtlpar train --model mtl",
    "evaluate": "mtlpar evaluate --model mtl",
    "finetune": 'mtlpar finetune model.pt mine.extxyz --level "PBE/PAW" --mode heads',
    "distill": "mtlpar distill model.pt --source ani1x --structures more.extxyz --out student.pt",
    "predict": "mtlpar predict model.pt screening/ --source mptrj --out predicted.extxyz",
    "lammps": "mtlpar lammps in.script --model model.pt --source mptrj --structure start.extxyz",
    "convert": "mtlpar convert model.pt --source mptrj --format metatomic",
    "watch": "mtlpar watch --model mtl --every 5",
    "report": "mtlpar report --item table1",
    "provenance": "mtlpar provenance results/tables/table1.csv",
    "schema": "mtlpar schema --out workflow/schemas/config.schema.json",
    "info": "mtlpar info results/models/mtl/model.pt",
    "check": "mtlpar check results/models/mtl/model.pt",
    "card": "mtlpar card results/models/mtl/model.pt",
    "plan layout": "mtlpar plan layout --machine frontier --gpus 64",
    "plan data": "mtlpar plan data --catalogue all --structures 500e6 --cores 56 --hours 4",
    "plan calibrate": "mtlpar launch --ranks-per-node 4 -- mtlpar plan calibrate --out here.yaml",
    "study memory": "mtlpar study memory --layout mtl-par --branches 2 --out memory.json",
    "study scaling": "mtlpar launch --ranks-per-node 4 -- mtlpar study scaling --out scaling.json",
    "study comm": "mtlpar launch --ranks-per-node 4 -- mtlpar study comm --layout mtl-par "
    "--out comm.json",
    "study transfer": "mtlpar study transfer --family molecules --seed 0 --out record.json",
    "study cosines": "mtlpar study cosines --model mtl",
    "study compatibility": "mtlpar study compatibility --mixture ani1x+qm7x --seed 0 "
    "--out record.json",
    "study draw": "mtlpar study draw --study memory",
    "launch": "mtlpar launch --nodes 2 --ranks-per-node 4 -- mtlpar train --model mtl",
    "doctor": "mtlpar launch --ranks-per-node 4 -- mtlpar doctor",
    "jobs": "mtlpar jobs --cancel",
    "profiles": "mtlpar profiles install frontier --account abc123",
}
"""By the words that follow ``mtlpar``."""
