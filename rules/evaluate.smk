# Test one model on the test sets of all sources.
rule evaluate:
    input:
        STAGES["evaluate"].inputs,
    output:
        **STAGES["evaluate"].outputs,
    log:
        "logs/evaluate/{model}.log",
    benchmark:
        "logs/benchmarks/evaluate/{model}.tsv"
    conda:
        "../envs/train-cpu.yaml"
    params:
        settings=STAGES["evaluate"].settings,
        code=STAGES["evaluate"].code,
    shell:
        "mtlpar evaluate --config $CONFIG_FILE --model {wildcards.model} > {log} 2>&1"
