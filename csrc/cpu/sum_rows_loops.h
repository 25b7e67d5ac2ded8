// Sums of rows that are picked by number, a vector of columns at a time.

namespace sum_rows_loops {

template <bool whole, class T>
PIX2GAN_INLINE void sum(const SumRows& k, const int64_t* index, T* out, int64_t column, int64_t n) {
    const T* x = static_cast<const T*>(k.x) + column;
    F total = F{};
    for (int64_t j = 0; j < k.terms; j++)
        if (index[j] < k.rows) {
            const T* from = x + index[j] * k.columns;
            total += whole ? load(from) : load_first(from, n);
        }
    if (whole)
        store(out + column, total);
    else
        store_first(out + column, total, n);
}

// A row of less than a vector, element by element.
template <class T>
PIX2GAN_INLINE void sum_short(const SumRows& k, const int64_t* index, T* out) {
    float total[lanes] = {};
    for (int64_t j = 0; j < k.terms; j++)
        if (index[j] < k.rows) {
            const T* from = static_cast<const T*>(k.x) + index[j] * k.columns;
            for (int64_t column = 0; column < k.columns; column++)
                total[column] += widened(from[column]);
        }
    for (int64_t column = 0; column < k.columns; column++) out[column] = narrowed<T>(total[column]);
}

template <class T>
void rows(const SumRows& call, int64_t first, int64_t last) {
    const SumRows k = call;
    const size_t bytes = static_cast<size_t>(k.columns) * sizeof(T);
    for (int64_t i = first; i < last; i++) {
        const int64_t* index = k.index + i * k.terms;
        T* out = static_cast<T*>(k.out) + i * k.columns;
        if (k.terms == 1) {
            if (*index < k.rows)
                __builtin_memcpy(out, static_cast<const T*>(k.x) + *index * k.columns, bytes);
            else
                __builtin_memset(out, 0, bytes);
            continue;
        }
        if (k.columns < lanes) {
            sum_short(k, index, out);
            continue;
        }
        int64_t column = 0;
        for (; column + lanes <= k.columns; column += lanes)
            sum<true>(k, index, out, column, lanes);
        if (column < k.columns) sum<false>(k, index, out, column, k.columns - column);
    }
}

inline SumRowsLoop find(const SumRows& k) {
    return k.type == Type::float32    ? rows<float>
           : k.type == Type::bfloat16 ? rows<bfloat16>
                                      : rows<float16>;
}

}  // namespace sum_rows_loops
