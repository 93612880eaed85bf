# One rule per table and per figure, each under its own name: `snakemake table1` makes table 1. They
# take seconds: on a cluster they run where Snakemake runs and are no jobs of the scheduler.
localrules:
    tables,
    figures,


for item in flow.report_items(CONFIG):

    rule:
        name:
            item.name
        input:
            item.inputs,
        output:
            [
                (
                    report(
                        path,
                        caption=f"../workflow/report/{item.name}.rst",
                        category=item.category,
                        labels={"what": item.title, "format": path.suffix[1:]},
                    )
                    if path.suffix in (".csv", ".png")
                    else path
                )
                for path in item.outputs
            ],
        log:
            f"logs/report/{item.name}.log",
        benchmark:
            f"logs/benchmarks/report/{item.name}.tsv"
        localrule: True
        conda:
            "../envs/report.yaml"
        params:
            settings=flow.rule_settings(
                CONFIG.report, CONFIG.sources, list(CONFIG.models)
            ),
            code=flow.code_digest("mtlpar.report.stage"),
            item=item.name,
        shell:
            "mtlpar report --config $CONFIG_FILE --item {params.item} > {log} 2>&1"


rule tables:
    input:
        [
            item.outputs
            for item in flow.report_items(CONFIG)
            if item.category == "Tables"
        ],


rule figures:
    input:
        [
            item.outputs
            for item in flow.report_items(CONFIG)
            if item.category == "Figures"
        ],
