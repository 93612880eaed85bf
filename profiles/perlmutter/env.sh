# Environment of Perlmutter's jobs, and of the login shell that runs Snakemake:
#   cd <your clone>; . profiles/perlmutter/env.sh
# Jobs source it in /bin/sh: POSIX syntax, no `set -e`, and the last command's status decides.
# Module versions are those of others' job scripts; nothing here has been tried on the machine.

# Where the conda environment lies: in the clone, unless the caller says otherwise.
MTLPAR_ENV="${MTLPAR_ENV:-$PWD/.venv}"

# `module` is a shell function, which not every /bin/sh inherits.
mtlpar_lmod="${LMOD_DIR:-/usr/share/lmod/lmod/libexec}/../init/sh"
if ! command -v module >/dev/null 2>&1 && [ -r "$mtlpar_lmod" ]; then
    . "$mtlpar_lmod"
fi

# Compilers, MPI, CUDA and conda.
module load PrgEnv-gnu/8.5.0 cray-mpich/8.1.30 craype-accel-nvidia80 cudatoolkit/12.4 conda/Miniforge3-24.11.3-0
# NCCL's plugin for Slingshot. The module's name is unverified: `module spider nccl`.
module load nccl-plugin ||
    echo "env.sh: the module nccl-plugin was not loaded, NCCL falls back to slow TCP" >&2

# Site packages of the home folder would shadow the environment.
export PYTHONNOUSERSITE=1
# 1 needs an mpi4py linked with Cray's GPU transport layer; mtlpar gives MPI only CPU memory.
export MPICH_GPU_SUPPORT_ENABLED=0

# NCCL over Slingshot, as other sites with this network set it. When the plugin is found, NCCL_NET="AWS
# Libfabric" makes a missing plugin an error instead of a slow run.
export NCCL_SOCKET_IFNAME=hsn
export NCCL_CROSS_NIC=1
export NCCL_NET_GDR_LEVEL=PHB
# libfabric: a cache monitor that does not deadlock with NCCL, and a large completion queue.
export FI_MR_CACHE_MONITOR=userfaultfd
export FI_CXI_DISABLE_HOST_REGISTER=1
export FI_CXI_DEFAULT_CQ_SIZE=131072

# `mtlpar launch`: every rank sees all GPUs of its node, as ranks that see only their own cannot copy
# from one another directly. The srun default for MPI is Cray's.
export MTLPAR_GPU_BIND=none

# The environment itself; a job stops here if it is not there.
. "$(conda info --base)/etc/profile.d/conda.sh" && conda activate "$MTLPAR_ENV" && command -v mtlpar >/dev/null
