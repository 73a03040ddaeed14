// The operations, as Python calls them.
#pragma once

#include "mlx/array.h"

namespace mlxdiff {

namespace mx = mlx::core;

// x of any shape.
mx::array silu(const mx::array& x);
mx::array gelu(const mx::array& x);
mx::array quick_gelu(const mx::array& x);

// x (..., 2 W) -> (..., W): the first half times the GELU of the second.
mx::array geglu(const mx::array& x);

}  // namespace mlxdiff
