# Install the CPU build of the torch that constraints-cpu.txt names. PyPI's own Linux wheel carries CUDA (several GB), so look for
# the +cpu build where pip already looks (a local wheel folder, a mirror), then on PyTorch's index; macOS wheels are CPU wheels anyway.
version=$(sed -n 's/^torch==//p' constraints-cpu.txt)
$PIP install "torch==$version+cpu" 2>/dev/null && exit 0
[ "$(uname)" = Darwin ] && exec $PIP install "torch==$version"
$PIP install --index-url https://download.pytorch.org/whl/cpu "torch==$version+cpu" ||
    { echo "No CPU build of torch $version found. Put its wheel in a folder and set PIP_FIND_LINKS to it, then run make again." >&2; exit 1; }
