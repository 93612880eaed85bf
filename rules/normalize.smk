# Split by group, drop exact duplicates, fit reference energies on train, close the ledger.
rule normalize:
    input:
        FILES.extracted_manifest("{source}"),
    output:
        splits=FILES.splits("{source}"),
        references=FILES.references("{source}"),
        ledger=FILES.ledger("{source}"),
    log:
        "logs/normalize/{source}.log",
    benchmark:
        "logs/benchmarks/normalize/{source}.tsv"
    conda:
        "../envs/data.yaml"
    resources:
        runtime=60,
    params:
        settings=flow.rule_settings(CONFIG.normalize, CONFIG.seed),
        code=flow.code_digest("mtlpar.normalize.stage"),
    shell:
        "mtlpar normalize --config $CONFIG_FILE --source {wildcards.source} > {log} 2>&1"
