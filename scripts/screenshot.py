"""Photograph a run's report for the README: its top in light colours, its wrong images in dark ones, side by side.

    python -m scripts.screenshot output/first/report.html docs/figures/report.webp
    python -m scripts.screenshot output/photos/report.html photos.png

Needs chromium and chromedriver.
"""

import base64
import io
import shutil
import tempfile
from pathlib import Path

from dassl.utils.command import Parser
from PIL import Image
from selenium import webdriver

WIDTH, HEIGHT = 1000, 1180
VIEWS = (("light", ""), ("dark", "mistakes"))


def main() -> None:
    parser = Parser(prog="screenshot", doc=__doc__)
    parser.add_argument("page", type=Path, help="HTML file of a report")
    parser.add_argument("picture", type=Path, help="picture to write")
    args = parser.parse_args()
    page, out = args.page, args.picture
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    with tempfile.TemporaryDirectory() as profile:
        for flag in ("headless", "no-sandbox", "disable-gpu", "no-first-run", "hide-scrollbars"):
            options.add_argument(f"--{flag}")
        options.add_argument(f"--user-data-dir={profile}")
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        sheet = Image.new("RGB", (len(VIEWS) * WIDTH, HEIGHT))
        for i, (scheme, anchor) in enumerate(VIEWS):
            size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            media = [("prefers-color-scheme", scheme), ("prefers-reduced-motion", "reduce")]
            features = [{"name": name, "value": value} for name, value in media]
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            browser.get(page.resolve().as_uri() + f"#{anchor}")
            shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": False})["data"]
            sheet.paste(Image.open(io.BytesIO(base64.b64decode(shot))), (i * WIDTH, 0))
        browser.quit()
    sheet.save(out, quality=88)


if __name__ == "__main__":
    main()
