// The operators as TensorRT plugins: one class, since they differ in their rules and in their launch only.
#pragma once
#include <NvInferRuntime.h>

#include "rules.hpp"

namespace tp {

constexpr const char* NAMESPACE = "tp.export";
constexpr const char* VERSION = "1";

// One line to TensorRT's logger, or to stderr where there is none.
void complain(Operator op, const char* what) noexcept;

class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
   public:
    using Tensor = nvinfer1::PluginTensorDesc;
    using Range = nvinfer1::DynamicPluginTensorDesc;

    explicit Plugin(const Settings& settings) noexcept;

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
    nvinfer1::IPluginV3* clone() noexcept override;

    const char* getPluginName() const noexcept override { return name_of(settings_.op); }
    const char* getPluginVersion() const noexcept override { return VERSION; }
    const char* getPluginNamespace() const noexcept override { return NAMESPACE; }

    int32_t getNbOutputs() const noexcept override { return outputs_of(settings_); }
    int32_t getOutputDataTypes(nvinfer1::DataType* outputs, int32_t many, const nvinfer1::DataType* inputs,
                               int32_t given) const noexcept override;
    int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t given, const nvinfer1::DimsExprs* shapes,
                            int32_t shaped, nvinfer1::DimsExprs* outputs, int32_t many,
                            nvinfer1::IExprBuilder& build) noexcept override;
    bool supportsFormatCombination(int32_t place, const Range* ports, int32_t given, int32_t many) noexcept override;
    int32_t configurePlugin(const Range* inputs, int32_t given, const Range* outputs, int32_t many) noexcept override;
    size_t getWorkspaceSize(const Range* inputs, int32_t given, const Range* outputs,
                            int32_t many) const noexcept override;
    const char* getTimingCacheID() noexcept override { return words_; }
    const char* getMetadataString() noexcept override { return words_; }

    int32_t onShapeChange(const Tensor* inputs, int32_t given, const Tensor* outputs, int32_t many) noexcept override;
    int32_t enqueue(const Tensor* inputs, const Tensor* outputs, const void* const* read, void* const* written,
                    void* workspace, cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
    const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

   private:
    const char* measure(const Tensor* inputs, Sizes& sizes) const noexcept;
    int launch(const Sizes& sizes, int type, const void* const* read, void* const* written, void* workspace,
               cudaStream_t stream) const noexcept;
    int32_t refuse(const char* what) const noexcept;

    Settings settings_;
    char words_[96];
    nvinfer1::PluginField fields_[4];
    nvinfer1::PluginFieldCollection serialized_;
};

}  // namespace tp
