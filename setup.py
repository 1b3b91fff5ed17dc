"All settings are in settings.ini."

import re
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

parser = ConfigParser(delimiters=["="])
parser.read("settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
lib = cfg["lib_path"]
extras = {key.removesuffix("_requirements"): cfg[key].split() for key in cfg if key.endswith("_requirements")}


def front_page():
    "README for the package's own page, from which no link leads to a file beside it"
    place = f"{cfg['git_url']}/{{}}/{cfg['branch']}/"
    text = Path("README.md").read_text(encoding="utf-8")
    text = re.sub(r"(!\[[^\]]*\]\()(?!https:)", rf"\1{place.format('raw')}", text)
    return re.sub(r"(\]\()(?!https:|#)", rf"\1{place.format('blob')}", text)


shutil.rmtree("build", ignore_errors=True)  # modules that are no more would be packed again

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=front_page(),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    url=cfg["git_url"],
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=cfg["keywords"],
    packages=find_packages(include=[lib, f"{lib}.*"]),
    package_data={f"{lib}.augment": ["*.txt"], f"{lib}.base": ["languages/*"], f"{lib}.panels": ["static/*"]},
    include_package_data=False,
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": [f"trainopt={lib}.notebook.cli:main"],
        "nbdev": [f"{lib}={lib}._modidx:d"],
    },
    zip_safe=False,
)
