# Environment of Frontier's jobs, and of the login shell that runs Snakemake:
#   cd <your clone>; . profiles/frontier/env.sh
# Jobs source it in /bin/sh: POSIX syntax, no `set -e`, and the last command's status decides.
# Module versions are OLCF's of 2026; nothing here has been tried on the machine.

# Where the conda environment lies: in the clone, unless the caller says otherwise.
MTLPAR_ENV="${MTLPAR_ENV:-$PWD/.venv}"

# `module` is a shell function, which not every /bin/sh inherits.
mtlpar_lmod="${LMOD_DIR:-/usr/share/lmod/lmod/libexec}/../init/sh"
if ! command -v module >/dev/null 2>&1 && [ -r "$mtlpar_lmod" ]; then
    . "$mtlpar_lmod"
fi

# Compilers, ROCm, and the plugin without which RCCL falls back to TCP.
module reset
module load PrgEnv-gnu/8.7.0 cpe/26.03 miniforge3/23.11.0-0 rocm/7.1.1 craype-accel-amd-gfx90a rccl-net-plugin
# The I/O profiler slows down many small reads.
module unload darshan-runtime 2>/dev/null
# The Cray libraries of the loaded modules, not those of the system's default.
export LD_LIBRARY_PATH="$CRAY_LD_LIBRARY_PATH:$LD_LIBRARY_PATH"

# Site packages of the home folder would shadow the environment.
export PYTHONNOUSERSITE=1

# RCCL over Slingshot: all four network cards, GPU memory read directly.
export NCCL_SOCKET_IFNAME=hsn0,hsn1,hsn2,hsn3
export NCCL_CROSS_NIC=1
export NCCL_NET_GDR_LEVEL=PHB
export HSA_FORCE_FINE_GRAIN_PCIE=1
# libfabric: kdreg2, because memhooks can deadlock; large queues; the rendezvous protocol that goes
# with --network=disable_rdzv_get of the train rule. The module rccl-net-plugin sets it too: to do
# without it takes an `unset` here, not only a line less.
export FI_MR_CACHE_MONITOR=kdreg2
export FI_CXI_DISABLE_HOST_REGISTER=1
export FI_CXI_DEFAULT_CQ_SIZE=131072
export FI_CXI_DEFAULT_TX_SIZE=2048
export FI_CXI_RX_MATCH_MODE=hybrid
export FI_CXI_RDZV_PROTO=alt_read
export FI_CXI_RDZV_EAGER_SIZE=0
export FI_CXI_RDZV_THRESHOLD=0
export FI_CXI_RDZV_GET_MIN=0

# MIOpen's kernel cache on the node: many processes on one file of the home folder hang.
if [ -n "$SLURM_JOB_ID" ]; then
    export MIOPEN_USER_DB_PATH="/tmp/miopen-$SLURM_JOB_ID"
    export MIOPEN_CUSTOM_CACHE_DIR="$MIOPEN_USER_DB_PATH"
    mkdir -p "$MIOPEN_USER_DB_PATH"
fi

# `mtlpar launch`: each rank sees the one die next to its cores. The srun default for MPI is Cray's.
export MTLPAR_GPU_BIND=closest

# The environment itself; a job stops here if it is not there.
. "$(conda info --base)/etc/profile.d/conda.sh" && conda activate "$MTLPAR_ENV" && command -v mtlpar >/dev/null
