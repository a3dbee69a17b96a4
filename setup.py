# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / 'deim_mmdet/version.py').read_text()).group(1)

# What mim looks for in the folder `.mim` of a package.
MIM_FILES = ('configs', 'tools', 'model-index.yml')


class BuildWithMim(build_py):
    """Puts configs, tools and the model index into ``deim_mmdet/.mim``, where mim finds them.

    A wheel gets copies. An editable install gets links in the source tree, so that they cannot get
    out of date. pip calls `build_py` for both, unlike `develop` and `bdist_wheel`.
    """

    def run(self):
        super().run()
        if self.editable_mode:
            self._link(ROOT / 'deim_mmdet' / '.mim')
        else:
            self._copy(Path(self.build_lib) / 'deim_mmdet' / '.mim')

    def _link(self, folder):
        folder.mkdir(exist_ok=True)
        for name in MIM_FILES:
            link = folder / name
            if link.is_symlink():
                link.unlink()
            elif link.is_dir():
                shutil.rmtree(link)
            try:
                link.symlink_to(Path('..', '..', name), target_is_directory=(ROOT / name).is_dir())
            except OSError:  # a file system without links
                self._copy_one(ROOT / name, link)

    def _copy(self, folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in MIM_FILES:
            self._copy_one(ROOT / name, folder / name)

    @staticmethod
    def _copy_one(source, target):
        if source.is_dir():
            ignore = shutil.ignore_patterns('__pycache__', '*.egg-info', 'build', 'dist')
            shutil.copytree(source, target, ignore=ignore)
        else:
            shutil.copy(source, target)


setup(
    name='deim_mmdet',
    version=VERSION,
    description='DEIM, D-FINE, RT-DETR, DEYO and DN-DETR as ordinary MMDetection 3.x models',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.9',
    packages=find_packages(include=['deim_mmdet', 'deim_mmdet.*']),
    include_package_data=True,
    # torch, mmcv (or mmcv-lite), mmengine and mmdet are left to the user, who may have builds of
    # their own: an install must not replace them. `import deim_mmdet` says which are missing.
    install_requires=['numpy', 'pillow', 'pycocotools', 'scikit-learn', 'scipy', 'tqdm'],
    extras_require={
        # mim imports pkg_resources, which setuptools 82 removed, and a name that click 9.1 removes.
        'mim': ['openmim>=0.3.9', 'setuptools>=77.0.3,<82', 'click<9.1'],
        # What mmdet's analysis tools import.
        'tools': ['psutil', 'seaborn', 'tensorboard'],
        # Folders of Hugging Face weights in and out; transformers itself only for its own tests.
        'peers': ['safetensors', 'transformers>=5'],
        # AP in a third of pycocotools' time: `engine='faster_coco_eval'` of the evaluator.
        'eval': ['faster-coco-eval>=1.6'],
        # Export and what runs exported files.
        'deploy': ['onnx>=1.16', 'onnxruntime>=1.17', 'openvino>=2024.0', 'pillow'],
        # Its protobuf goes with no newer onnx, and that onnx with no newer ONNX Runtime.
        'mmdeploy': ['mmdeploy==1.3.1', 'onnx==1.17.0', 'onnxruntime<1.23', 'protobuf==3.20.2'],
        # Engines, built with or without a GPU, that TensorRT for RTX runs.
        'tensorrt': [
            'cuda-bindings<13',
            'onnx>=1.16',
            'tensorrt-rtx-cu12-bindings',
            'tensorrt-rtx-cu12-libs',
        ],
        'test': ['pytest', 'pytest-timeout', 'ruff'],
    },
    classifiers=[
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    zip_safe=False,
    cmdclass={'build_py': BuildWithMim},
)
