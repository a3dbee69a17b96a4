_base_ = ['./_base_/static.py', './_base_/tensorrt.py']
