/* Test double of librknnrt.so: float16, and the types of tensors. */
#include "double.h"

#include <string.h>

static uint16_t to_half(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000)
        return sign | 0x7e00;
    if (bits >= 0x477ff000) /* from 65520 on, which is half way to what would follow 65504 */
        return sign | 0x7c00;
    if (bits < 0x38800000) {
        /* Subnormal: beside 0.5, float32 has steps of 2^-24, which are float16's here. */
        float sum;
        memcpy(&sum, &bits, sizeof sum);
        sum += 0.5f;
        memcpy(&bits, &sum, sizeof bits);
        return sign | (uint16_t)(bits - 0x3f000000);
    }
    bits += 0xfff + (bits >> 13 & 1); /* to nearest, ties to even */
    return sign | (uint16_t)((bits - 0x38000000) >> 13);
}

static float from_half(uint16_t half)
{
    uint32_t exponent = half >> 10 & 31, mantissa = half & 0x3ff, bits;
    float value;
    if (exponent == 0) {
        value = (float)mantissa * 0x1p-24f;
        return half & 0x8000 ? -value : value;
    }
    bits = (uint32_t)(half & 0x8000) << 16 | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | mantissa << 13;
    memcpy(&value, &bits, sizeof value);
    return value;
}

bool tensor_type_of(int onnx_type, enum tensor_type *type)
{
    switch (onnx_type) {
    case ONNX_FLOAT:
    case ONNX_FLOAT16: *type = TYPE_FLOAT16; return true;
    case ONNX_UINT8: *type = TYPE_UINT8; return true;
    case ONNX_INT8: *type = TYPE_INT8; return true;
    case ONNX_UINT16: *type = TYPE_UINT16; return true;
    case ONNX_INT16: *type = TYPE_INT16; return true;
    case ONNX_INT32: *type = TYPE_INT32; return true;
    case ONNX_INT64: *type = TYPE_INT64; return true;
    case ONNX_BOOL: *type = TYPE_BOOL; return true;
    case ONNX_UINT32: *type = TYPE_UINT32; return true;
    default: return false;
    }
}

uint32_t type_bytes(enum tensor_type type)
{
    switch (type) {
    case TYPE_FLOAT32: case TYPE_INT32: case TYPE_UINT32: return 4;
    case TYPE_FLOAT16: case TYPE_INT16: case TYPE_UINT16: return 2;
    case TYPE_INT8: case TYPE_UINT8: case TYPE_BOOL: return 1;
    case TYPE_INT64: return 8;
    }
    return 0;
}

size_t tensor_buffer_bytes(const struct tensor *tensor)
{
    return (size_t)tensor->n_elems * (tensor->onnx_type == ONNX_FLOAT ? 4 : type_bytes(tensor->type));
}

#define AT(kind, from, i) (((const kind *)(from))[i])

static double float_at(const void *from, enum tensor_type type, size_t i)
{
    switch (type) {
    case TYPE_FLOAT32: return (double)AT(float, from, i);
    case TYPE_FLOAT16: return (double)from_half(AT(uint16_t, from, i));
    case TYPE_INT8: return AT(int8_t, from, i);
    case TYPE_UINT8: case TYPE_BOOL: return AT(uint8_t, from, i);
    case TYPE_INT16: return AT(int16_t, from, i);
    case TYPE_UINT16: return AT(uint16_t, from, i);
    case TYPE_INT32: return AT(int32_t, from, i);
    case TYPE_UINT32: return AT(uint32_t, from, i);
    case TYPE_INT64: return (double)AT(int64_t, from, i);
    }
    return 0;
}

static int64_t whole(double value)
{
    return value >= 0x1p63 ? INT64_MAX : value < -0x1p63 || value != value ? INT64_MIN : (int64_t)value;
}

void tensor_take(const struct tensor *tensor, void *buffer, const void *from, enum tensor_type type)
{
    size_t n = tensor->n_elems;
    if (type == tensor->type && tensor->onnx_type != ONNX_FLOAT) {
        memcpy(buffer, from, n * type_bytes(type));
        return;
    }
    for (size_t i = 0; i < n; i++) {
        int64_t number = type == TYPE_INT64 ? AT(int64_t, from, i) : 0;
        double value = float_at(from, type, i);
        if (tensor->type != TYPE_FLOAT16 && type != TYPE_INT64)
            number = whole(value);
        switch (tensor->type) {
        case TYPE_FLOAT16: {
            uint16_t half = to_half((float)value);
            if (tensor->onnx_type == ONNX_FLOAT)
                ((float *)buffer)[i] = from_half(half);
            else
                ((uint16_t *)buffer)[i] = half;
            break;
        }
        case TYPE_INT64: ((int64_t *)buffer)[i] = number; break;
        case TYPE_INT32: case TYPE_UINT32: ((uint32_t *)buffer)[i] = (uint32_t)number; break;
        case TYPE_INT16: case TYPE_UINT16: ((uint16_t *)buffer)[i] = (uint16_t)number; break;
        case TYPE_BOOL: ((uint8_t *)buffer)[i] = value != 0; break;
        default: ((uint8_t *)buffer)[i] = (uint8_t)number; break;
        }
    }
}

void tensor_give(const struct tensor *tensor, const void *buffer, void *to, bool as_float)
{
    size_t n = tensor->n_elems;
    bool floats = tensor->onnx_type == ONNX_FLOAT;
    if (as_float && floats)
        memcpy(to, buffer, n * sizeof(float));
    else if (as_float)
        for (size_t i = 0; i < n; i++)
            ((float *)to)[i] = (float)float_at(buffer, tensor->type, i);
    else if (floats)
        for (size_t i = 0; i < n; i++)
            ((uint16_t *)to)[i] = to_half(((const float *)buffer)[i]);
    else
        memcpy(to, buffer, n * type_bytes(tensor->type));
}

static float spoiled(float value, enum output_fault fault)
{
    switch (fault) {
    case OUTPUT_ZEROS: return 0;
    case OUTPUT_NAN: return __builtin_nanf("");
    case OUTPUT_INF: return __builtin_inff();
    case OUTPUT_WRONG: return value / 2;
    default: return value;
    }
}

void tensor_finish(const struct tensor *tensor, void *buffer, enum output_fault fault)
{
    if (tensor->type != TYPE_FLOAT16) {
        if (fault != OUTPUT_RIGHT)
            memset(buffer, 0, tensor_buffer_bytes(tensor));
        return;
    }
    for (size_t i = 0; i < tensor->n_elems; i++)
        if (tensor->onnx_type == ONNX_FLOAT) {
            float *value = (float *)buffer + i;
            *value = from_half(to_half(spoiled(*value, fault)));
        } else {
            uint16_t *half = (uint16_t *)buffer + i;
            *half = to_half(spoiled(from_half(*half), fault));
        }
}
