#!/bin/sh
# arm64.sh FOLDER: an arm64 userland with Python, numpy and ONNX Runtime in FOLDER, and FOLDER/python to run it here.
# It is a device for tests of what is computed there; how long that takes means nothing. About 300 MB, half a minute.
#
# Needs debootstrap, dpkg-deb, pip for Python 3.11 or newer (PIP=...), and qemu-aarch64 (QEMU=...) of version 9 or newer:
# version 7.2, which Debian 12 has, crashes in ONNX Runtime; its backports have a newer one in the package qemu-user.
# debootstrap wants to be root: fakeroot will do. Nothing is mounted, and no emulator registered.
set -eu
mkdir -p "$1"
place=$(cd "$1" && pwd)
qemu=$(command -v "${QEMU:-qemu-aarch64}")
"$qemu" --version | head -n 1
fakeroot=$(command -v fakeroot || true)
[ "$(id -u)" = 0 ] && fakeroot=
$fakeroot debootstrap --arch=arm64 --variant=minbase --foreign --include=python3 bookworm "$place/boot" >"$place/boot.log"
for package in "$place"/boot/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" "$place/root"; done
rm -r "$place/boot"
# the interpreter there has no installer, and needs none
${PIP:-python3 -m pip} install -q --target "$place/site" --only-binary=:all: --no-compile --implementation cp --python-version 3.11 \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 numpy onnxruntime packaging
cat >"$place/python" <<END
#!/bin/sh
exec "$qemu" -cpu cortex-a76 -L "$place/root" -E PYTHONPATH="\${PYTHONPATH:+\$PYTHONPATH:}$place/site" "$place/root/usr/bin/python3.11" "\$@"
END
chmod +x "$place/python"
"$place/python" -c 'import platform, numpy, onnxruntime; print(platform.machine(), numpy.__version__, onnxruntime.__version__)'
