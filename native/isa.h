// Which instruction set the kernels run with: the best that this processor has, unless told otherwise.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace mlxdiff {

// Names of the instruction sets compiled in that this processor has, plainest first.
std::vector<std::string> instruction_sets();

// Takes the kernels of that name from now on; throws std::invalid_argument if instruction_sets() lacks it.
void use_instruction_set(const std::string& name);

// Whether the instruction set in use multiplies bf16; only then there are kernels<BFloat16>().
bool has_bf16();

// The kernels in use.
template <class Real>
const Kernels<Real>& kernels();

}  // namespace mlxdiff
