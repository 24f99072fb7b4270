// Whether a model is as it was: what its dictionaries hold, and the memory and form of its tensors.
//
// All that is compared is handed over in each call: there is nothing here to keep or to free.

#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

// Reads a property of a tensor, and gives 0 unless it fails: torch/csrc/inductor/aoti_torch/c/shim.h, which stays as it is
// from one version of torch to the next.
typedef int32_t (*Read)(const void* tensor, void* property);

struct Reads {
  Read data_ptr, dtype, dim, sizes, strides;
};

struct Form {
  void* data;
  int32_t dtype;
  int64_t dim, *sizes, *strides;
};

static bool read_form(const void* tensor, const struct Reads* reads, struct Form* form) {
  return !reads->data_ptr(tensor, &form->data) && !reads->dtype(tensor, &form->dtype) &&
         !reads->dim(tensor, &form->dim) && !reads->sizes(tensor, &form->sizes) &&
         !reads->strides(tensor, &form->strides);
}

static const void* tensor_of(PyObject* tensors, Py_ssize_t at, int64_t offset) {
  return (const char*)PyTuple_GET_ITEM(tensors, at) + offset;
}

// Writes, of each tensor of a tuple: address, dtype, number of axes, sizes, strides. Gives 0 if one cannot be read.
//   offset: where a tensor's object has the pointer to the tensor.
bool read_forms(PyObject* tensors, const struct Reads* reads, int64_t offset, int64_t* to) {
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tensors); ++i) {
    struct Form form;
    if (!read_form(tensor_of(tensors, i, offset), reads, &form)) return 0;
    *to++ = (int64_t)form.data;
    *to++ = form.dtype;
    *to++ = form.dim;
    for (int64_t axis = 0; axis < form.dim; ++axis) *to++ = form.sizes[axis];
    for (int64_t axis = 0; axis < form.dim; ++axis) *to++ = form.strides[axis];
  }
  return 1;
}

static bool has_forms(PyObject* tensors, const struct Reads* reads, int64_t offset, const int64_t* forms) {
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tensors); ++i) {
    struct Form form;
    if (!read_form(tensor_of(tensors, i, offset), reads, &form)) return 0;
    if ((int64_t)form.data != forms[0] || form.dtype != forms[1] || form.dim != forms[2]) return 0;
    const size_t bytes = form.dim * sizeof(int64_t);
    if (memcmp(forms + 3, form.sizes, bytes) || memcmp(forms + 3 + form.dim, form.strides, bytes)) return 0;
    forms += 3 + 2 * form.dim;
  }
  return 1;
}

static bool holds(PyObject* holder, PyObject* key, PyObject* value) {
  PyObject* found;
  if (PyDict_Check(holder)) {
    found = PyDict_GetItemWithError(holder, key);
  } else {
    found = PyObject_GetItem(holder, key);
    Py_XDECREF(found); // the holder has it, too
  }
  if (!found) PyErr_Clear();
  return found == value;
}

//   holders, keys, values: tuples of as many items; values[i] was at holders[i][keys[i]].
//   dicts: a tuple of dictionaries. lengths: theirs. forms: of the tensors.
bool unchanged(PyObject* holders, PyObject* keys, PyObject* values, PyObject* dicts, const int64_t* lengths,
                  PyObject* tensors, const struct Reads* reads, int64_t offset, const int64_t* forms) {
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(holders); ++i)
    if (!holds(PyTuple_GET_ITEM(holders, i), PyTuple_GET_ITEM(keys, i), PyTuple_GET_ITEM(values, i))) return 0;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(dicts); ++i)
    if (PyDict_Size(PyTuple_GET_ITEM(dicts, i)) != lengths[i]) return 0;
  return has_forms(tensors, reads, offset, forms);
}
