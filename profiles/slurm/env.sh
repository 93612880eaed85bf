# Environment of the jobs, and of the login shell that runs Snakemake:
#   cd <your clone>; . profiles/slurm/env.sh
# Jobs source it in /bin/sh: POSIX syntax, no `set -e`, and the last command's status decides.

# Where the virtual environment lies: in the clone, unless the caller says otherwise.
MTLPAR_ENV="${MTLPAR_ENV:-$PWD/.venv}"

# CHANGE ME: the site's modules, if the environment was built with any.
# module load gcc cuda openmpi

# Site packages of the home folder would shadow the environment.
export PYTHONNOUSERSITE=1

# `mtlpar launch`: how srun meets the MPI of mpi4py. pmi2 goes with the mpich wheel of mtlpar[mpi];
# for a site MPI set what `srun --mpi=list` and its documentation name, often pmix, or nothing.
export MTLPAR_SRUN_MPI="${MTLPAR_SRUN_MPI-pmi2}"
# If jobs now and then fail with "value not properly terminated in client request": the wheel's UCX
# announces 4 kB of addresses per rank, in lines of which some are longer than pmi2 reads at once.
# Those of libfabric are short; it is slower where it has only TCP.
# export MPIR_CVAR_CH4_NETMOD=ofi FI_PROVIDER=tcp
# closest: each rank sees its own GPU only. none: each sees all GPUs of its node.
export MTLPAR_GPU_BIND=closest

# The environment itself; a job stops here if it is not there.
[ -r "$MTLPAR_ENV/bin/activate" ] && . "$MTLPAR_ENV/bin/activate" && command -v mtlpar >/dev/null
