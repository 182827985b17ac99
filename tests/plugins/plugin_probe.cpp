// The plugins as TensorRT uses them, for ctypes: created for building, serialized, created for running, cloned, attached,
// and run; the launchers are those of the kernels on the CPU.
#include <NvInferRuntime.h>

#include <cstring>
#include <initializer_list>
#include <memory>

using namespace nvinfer1;

extern "C" IPluginCreatorInterface* const* getCreators(int32_t& many);
extern "C" const char* cudaGetErrorString(cudaError_t) { return "a CUDA error"; }

namespace {

IPluginCreatorV3One* creator(const char* name) {
    int32_t many = 0;
    IPluginCreatorInterface* const* all = getCreators(many);
    for (int32_t i = 0; i < many; ++i) {
        auto* one = static_cast<IPluginCreatorV3One*>(all[i]);
        if (std::strcmp(one->getPluginName(), name) == 0) return one;
    }
    return nullptr;
}

template <typename T>
T* part(IPluginV3* plugin, PluginCapabilityType type) {
    return static_cast<T*>(plugin->getCapabilityInterface(type));
}

bool named(IPluginV3* plugin, const char* name) {
    auto* core = part<IPluginV3OneCore>(plugin, PluginCapabilityType::kCORE);
    return std::strcmp(core->getPluginName(), name) == 0 && std::strcmp(core->getPluginVersion(), "1") == 0 &&
           std::strcmp(core->getPluginNamespace(), "tp.export") == 0;
}

}  // namespace

extern "C" {

struct Port {
    int32_t type, rank;
    int64_t dims[8];
    void* data;
};

// 0, or the number of the step that failed. types: of the outputs, to be filled in; bytes: of the workspace.
int run(const char* name, const char* form, int32_t k, int32_t dynamic, const Port* in, int32_t given, Port* out,
        int32_t many, int64_t* bytes, void* workspace) {
    const PluginField told[] = {{"k", &k, PluginFieldType::kINT32, 1},
                                {"dynamic", &dynamic, PluginFieldType::kINT32, 1},
                                {"plugin_namespace", "tp.export", PluginFieldType::kCHAR, 9},
                                {"form", form, PluginFieldType::kCHAR, static_cast<int32_t>(std::strlen(form))}};
    const PluginFieldCollection fields{*form == 0 ? 3 : 4, told};
    IPluginCreatorV3One* from = creator(name);
    if (from == nullptr || std::strcmp(from->getPluginNamespace(), "tp.export") != 0) return 1;
    std::unique_ptr<IPluginV3> built(from->createPlugin("built", &fields, TensorRTPhase::kBUILD));
    if (built == nullptr || !named(built.get(), name)) return 2;

    PluginTensorDesc ports[16]{};
    DynamicPluginTensorDesc ranges[16]{};
    DataType types[16]{};
    auto* build = part<IPluginV3OneBuild>(built.get(), PluginCapabilityType::kBUILD);
    if (build->getNbOutputs() != many) return 3;
    for (int i = 0; i < given; ++i) types[i] = static_cast<DataType>(in[i].type);
    if (build->getOutputDataTypes(types + given, many, types, given) != 0) return 4;
    for (int i = 0; i < given + many; ++i) {
        const Port& port = i < given ? in[i] : out[i - given];
        ports[i].type = types[i];
        ports[i].dims.nbDims = port.rank;
        std::memcpy(ports[i].dims.d, port.dims, sizeof port.dims);
        ranges[i] = {ports[i], ports[i].dims, ports[i].dims, ports[i].dims};
        if (i >= given) out[i - given].type = static_cast<int32_t>(types[i]);
    }
    for (int i = 0; i < given + many; ++i) {
        if (!build->supportsFormatCombination(i, ranges, given, many)) return 5;
        ranges[i].desc.format = TensorFormat::kCHW4;
        if (build->supportsFormatCombination(i, ranges, given, many)) return 6;
        ranges[i].desc.format = TensorFormat::kLINEAR;
    }
    if (build->configurePlugin(ranges, given, ranges + given, many) != 0) return 7;
    *bytes = static_cast<int64_t>(build->getWorkspaceSize(ranges, given, ranges + given, many));

    auto* first = part<IPluginV3OneRuntime>(built.get(), PluginCapabilityType::kRUNTIME);
    std::unique_ptr<IPluginV3> loaded(from->createPlugin("run", first->getFieldsToSerialize(), TensorRTPhase::kRUNTIME));
    built.reset();  // nothing of it may be needed from here on
    if (loaded == nullptr) return 8;
    std::unique_ptr<IPluginV3> cloned(loaded->clone());
    loaded.reset();
    auto* second = part<IPluginV3OneRuntime>(cloned.get(), PluginCapabilityType::kRUNTIME);
    std::unique_ptr<IPluginV3> attached(second->attachToContext(nullptr));
    cloned.reset();
    if (attached == nullptr || !named(attached.get(), name)) return 9;
    auto* runs = part<IPluginV3OneRuntime>(attached.get(), PluginCapabilityType::kRUNTIME);
    if (runs->onShapeChange(ports, given, ports + given, many) != 0) return 10;
    const void* read[16]{};
    void* written[16]{};
    for (int i = 0; i < given; ++i) read[i] = in[i].data;
    for (int i = 0; i < many; ++i) written[i] = out[i].data;
    return runs->enqueue(ports, ports + given, read, written, workspace, nullptr) == 0 ? 0 : 11;
}
}
