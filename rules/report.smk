# One rule per table and per figure, each under its own name: `snakemake table1` makes table 1. They
# take seconds: on a cluster they run where Snakemake runs and are no jobs of the scheduler.
localrules:
    tables,
    figures,


for name, item in ITEMS.items():
    MADE = flow.rule_of(CONFIG, "report", name)

    rule:
        name:
            name
        input:
            MADE.inputs,
        output:
            [
                (
                    report(
                        path,
                        caption=f"../workflow/report/{name}.rst",
                        category=item.category,
                        labels={"what": item.title, "format": path.suffix[1:]},
                    )
                    if path.suffix in (".csv", ".png")
                    else path
                )
                for path in MADE.outputs["files"]
            ],
        log:
            f"logs/report/{name}.log",
        benchmark:
            f"logs/benchmarks/report/{name}.tsv"
        localrule: True
        conda:
            "../envs/report.yaml"
        params:
            settings=MADE.settings,
            code=MADE.code,
            item=name,
        shell:
            "mtlpar report --config $CONFIG_FILE --item {params.item} > {log} 2>&1"


rule tables:
    input:
        [
            flow.rule_of(CONFIG, "report", name).outputs["files"]
            for name in table_names(with_stress=CONFIG.predicts_stress)
        ],


rule figures:
    input:
        [
            flow.rule_of(CONFIG, "report", name).outputs["files"]
            for name in figure_names(with_stress=CONFIG.predicts_stress)
        ],
