#define PY_SSIZE_T_CLEAN
#include <Python.h>

static PyObject *sum(PyObject *self, PyObject *arguments) {
    long last;
    if (!PyArg_ParseTuple(arguments, "l", &last))
        return NULL;
    return PyLong_FromLong(last * (last + 1) / 2);
}

static PyMethodDef methods[] = {{"sum", sum, METH_VARARGS, "The sum of 1 to n."}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "gauss", NULL, -1, methods};

PyMODINIT_FUNC PyInit_gauss(void) { return PyModule_Create(&module); }
