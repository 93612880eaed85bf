# Split by group, drop duplicates, fit reference energies on train, close the ledger.
rule normalize:
    input:
        STAGES["normalize"].inputs,
    output:
        **STAGES["normalize"].outputs,
    log:
        "logs/normalize/{source}.log",
    benchmark:
        "logs/benchmarks/normalize/{source}.tsv"
    priority: flow.DATA_PRIORITY
    conda:
        "../envs/data.yaml"
    threads: 1
    params:
        settings=STAGES["normalize"].settings,
        code=STAGES["normalize"].code,
    shell:
        "mtlpar normalize --config $CONFIG_FILE --source {wildcards.source}"
        " --jobs {threads} > {log} 2>&1"


# Compare the test split of each source with the train splits of all.
rule find_leaks:
    input:
        STAGES["find_leaks"].inputs,
    output:
        **STAGES["find_leaks"].outputs,
    log:
        "logs/normalize/leaks.log",
    benchmark:
        "logs/benchmarks/normalize/leaks.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    params:
        settings=STAGES["find_leaks"].settings,
        code=STAGES["find_leaks"].code,
    shell:
        "mtlpar leaks --config $CONFIG_FILE --jobs {threads} > {log} 2>&1"
