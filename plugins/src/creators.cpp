// What TensorRT asks a plugin library for: its creators, and to take note of the logger.
#include <cstdio>
#include <new>

#include "plugin.hpp"

namespace {

using namespace nvinfer1;

ILoggerFinder* finder = nullptr;

char last[256] = "";

class Creator final : public IPluginCreatorV3One {
   public:
    explicit Creator(tp::Operator op) noexcept : op_(op) {}

    const char* getPluginName() const noexcept override { return tp::name_of(op_); }
    const char* getPluginVersion() const noexcept override { return tp::VERSION; }
    const char* getPluginNamespace() const noexcept override { return tp::NAMESPACE; }
    const PluginFieldCollection* getFieldNames() noexcept override { return &names_; }

    IPluginV3* createPlugin(const char*, const PluginFieldCollection* given, TensorRTPhase) noexcept override {
        tp::Settings settings;
        settings.op = op_;
        for (int i = 0; i < given->nbFields; ++i) {
            const PluginField& field = given->fields[i];
            const tp::Field one{field.name, field.data, static_cast<int>(field.type), field.length};
            if (const char* wrong = tp::read_field(one, settings)) return refuse(wrong);
        }
        if (const char* wrong = tp::check(settings)) return refuse(wrong);
        return new (std::nothrow) tp::Plugin(settings);
    }

   private:
    IPluginV3* refuse(const char* what) const noexcept {
        tp::complain(op_, what);
        return nullptr;
    }

    tp::Operator op_;
    PluginField fields_[4] = {{"k", nullptr, PluginFieldType::kINT32, 1},
                              {"dynamic", nullptr, PluginFieldType::kINT32, 1},
                              {"index_bytes", nullptr, PluginFieldType::kINT32, 1},
                              {"form", nullptr, PluginFieldType::kCHAR, 0}};
    PluginFieldCollection names_{op_ == tp::Operator::diverse_select ? 4 : 3, fields_};
};

Creator select_creator(tp::Operator::select);
Creator token_select_creator(tp::Operator::token_select);
Creator diverse_select_creator(tp::Operator::diverse_select);

}  // namespace

void tp::complain(Operator op, const char* what) noexcept {
    std::snprintf(last, sizeof last, "%s::%s: %s", NAMESPACE, name_of(op), what);
    ILogger* logger = finder == nullptr ? nullptr : finder->findLogger();
    if (logger != nullptr) logger->log(ILogger::Severity::kERROR, last);
    else std::fprintf(stderr, "%s\n", last);
}

#define TP_EXPORT extern "C" __attribute__((visibility("default")))

TP_EXPORT IPluginCreatorInterface* const* getCreators(int32_t& many) {
    static IPluginCreatorInterface* const all[] = {&select_creator, &token_select_creator, &diverse_select_creator};
    many = 3;
    return all;
}

TP_EXPORT void setLoggerFinder(ILoggerFinder* found) { finder = found; }

// The CUDA version of the build, as 1000 * major + 10 * minor, and the GPUs that it has machine code for.
TP_EXPORT int tp_cuda(void) { return CUDART_VERSION; }
TP_EXPORT const char* tp_gpus(void) { return TP_GPUS; }

// What was wrong last, in one line: TensorRT itself says no more than that a plugin refused.
TP_EXPORT const char* tp_complaint(void) { return last; }
