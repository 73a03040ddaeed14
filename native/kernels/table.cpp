#include "../kernels.h"

namespace mlxdiff::MLXDIFF_ISA {

#define MLXDIFF_QUOTE(name) #name
#define MLXDIFF_STRING(name) MLXDIFF_QUOTE(name)
#define MLXDIFF_ENTRY(name, arguments) &name,

extern const Kernels<Real> table;
const Kernels<Real> table{MLXDIFF_STRING(MLXDIFF_ISA), MLXDIFF_KERNELS(MLXDIFF_ENTRY, Real)};

}  // namespace mlxdiff::MLXDIFF_ISA
