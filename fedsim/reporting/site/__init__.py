"""The public leaderboard as a static site: an index, and a page for each scenario, each attack and each defense.

    index.html, scenario-<name>-<hash>.html, attack-<name>.html, defense-<name>.html
    pictures/<entry>.png, entries/<entry>.json     what the pages show, as it was submitted
    site.css, site.js
    fedsim-site.json                               our marker: which files are ours

Every page is complete without JavaScript, which adds sorting, filtering and the pictures side by side. Links are
relative, and nothing comes from the network, so the site works from a disk.
"""

from fedsim.reporting.site.contents import pages
from fedsim.reporting.site.files import MARKER, write

__all__ = ["MARKER", "pages", "write"]
