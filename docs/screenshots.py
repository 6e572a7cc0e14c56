"""The README's screenshots, drawn anew by Chromium.

fedsim run scenarios/quickstart.yaml && fedsim run scenarios/defenses.yaml && fedsim leaderboard --site site
python docs/screenshots.py runs/quickstart/report.html docs/report.png
python docs/screenshots.py runs/defenses/report.html docs/defenses.png --at utility --height 780
python docs/screenshots.py site/index.html docs/leaderboard.png
python docs/screenshots.py examples/flower-quickstart/audit-canary/audit.html docs/audit.png  # see its README
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--at", default="", metavar="ID", help="the section at the top of the picture")
    parser.add_argument("--width", type=int, default=1100)
    parser.add_argument("--height", type=int, default=1400)
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": arguments.width, "height": arguments.height})
        page.goto(arguments.page.resolve().as_uri() + (f"#{arguments.at}" if arguments.at else ""))
        page.wait_for_timeout(1500)  # charts and pictures come after the page
        picture = Image.open(io.BytesIO(page.screenshot()))
        browser.close()
    # few colours are on the page: a palette makes the file a third of the size
    picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(arguments.picture, optimize=True)


if __name__ == "__main__":
    main()
