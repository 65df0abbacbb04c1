from setuptools import Extension, setup

setup(name="gauss", version="1.0", ext_modules=[Extension("gauss", ["gauss.c"])])
