# Environment of Aurora's jobs, and of the login shell that runs Snakemake:
#   cd <your clone>; . profiles/aurora/env.sh
# Jobs source it in /bin/sh: POSIX syntax, no `set -e`, and the last command's status decides. PBS does
# not carry over the login environment: all a job needs is set here.
# Nothing here has been tried on the machine.

# Where the virtual environment lies: in the clone, unless the caller says otherwise. Jobs do not see
# what the login shell exported: change it here.
MTLPAR_ENV="${MTLPAR_ENV:-$PWD/.venv}"

# `module` is a shell function, which not every /bin/sh inherits.
mtlpar_lmod="${LMOD_DIR:-/usr/share/lmod/lmod/libexec}/../init/sh"
if ! command -v module >/dev/null 2>&1 && [ -r "$mtlpar_lmod" ]; then
    . "$mtlpar_lmod"
fi

# Python, PyTorch with its xccl backend, mpi4py.
module load frameworks
# Nodes reach the outside through a proxy, login nodes included.
export http_proxy=http://proxy.alcf.anl.gov:3128
export https_proxy="$http_proxy"

# Site packages of the home folder would shadow the environment.
export PYTHONNOUSERSITE=1
# 12 devices per node, one per tile.
export ZE_FLAT_DEVICE_HIERARCHY=FLAT

# oneCCL starts through PALS and finds its peers by MPI.
export CCL_PROCESS_LAUNCHER=pmix
export CCL_ATL_TRANSPORT=mpi
export CCL_KVS_MODE=mpi
export CCL_KVS_CONNECTION_TIMEOUT=600
# libfabric: a cache monitor that does not deadlock with oneCCL, and a large completion queue.
export FI_MR_CACHE_MONITOR=userfaultfd
export FI_CXI_DEFAULT_CQ_SIZE=1048576

# `mtlpar launch`: eight cores for each of 12 ranks, six ranks per socket, past the reserved cores 0
# and 52.
export MTLPAR_CPU_BIND="list:1-8:9-16:17-24:25-32:33-40:41-48:53-60:61-68:69-76:77-84:85-92:93-100"
# Ranks meet over the fast network: rank 0's host name with this suffix.
export MTLPAR_HOST_SUFFIX=.hsn.cm.aurora.alcf.anl.gov

# The environment itself; a job stops here if it is not there.
[ -r "$MTLPAR_ENV/bin/activate" ] && . "$MTLPAR_ENV/bin/activate" && command -v mtlpar >/dev/null
