# Split by group, drop exact duplicates, fit reference energies on train, close the ledger.
rule normalize:
    input:
        FILES.extracted_manifest("{source}"),
        lambda wildcards: flow.reference_files(CONFIG, wildcards.source),
    output:
        splits=FILES.splits("{source}"),
        references=FILES.references("{source}"),
        checks=FILES.checks("{source}"),
        ledger=FILES.ledger("{source}"),
    log:
        "logs/normalize/{source}.log",
    benchmark:
        "logs/benchmarks/normalize/{source}.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    params:
        settings=flow.rule_settings(CONFIG.normalize, CONFIG.seed),
        code=flow.code_digest("mtlpar.normalize.stage"),
    shell:
        "mtlpar normalize --config $CONFIG_FILE --source {wildcards.source}"
        " --jobs {threads} > {log} 2>&1"


# Compare the test split of each source with the train splits of all.
rule find_leaks:
    input:
        [FILES.extracted_manifest(source) for source in CONFIG.sources],
        [FILES.splits(source) for source in CONFIG.sources],
    output:
        FILES.leaks,
    log:
        "logs/normalize/leaks.log",
    benchmark:
        "logs/benchmarks/normalize/leaks.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    params:
        sources=flow.rule_settings(CONFIG.sources),
        code=flow.code_digest("mtlpar.normalize.leaks"),
    shell:
        "mtlpar leaks --config $CONFIG_FILE --jobs {threads} > {log} 2>&1"
